export {
  type CallOptions,
  type CatalogueOptions,
  type ConditionalReadOptions,
  defaultBaseUrl,
  type Found,
  type ItemInfo,
  type ListOptions,
  type Operation,
  type ReadOptions,
  type Schemas,
  type SearchOptions,
  Stockroom,
  type StockroomOptions,
  type TTLOptions,
  type WriteOptions,
  type Written,
} from './client.js';
export { type FieldError, StockroomError } from './errors.js';
export type { components, operations, paths } from './openapi.gen.js';
export { StorageProvider } from './storage.js';
