import { inBatches } from './batches.js';
import { type Schemas, Stockroom, type StockroomOptions } from './client.js';
import { StockroomError } from './errors.js';

// The store that this one replaces types values so, and so do the programs that use it.
type Value = any;

/** What is known of a stored item. */
export interface StorageMetadata {
  key: string;
  /** What the item counts for against the store's limit, in bytes. */
  size: number;
  /** The time to live that it was set with, in seconds; absent where it never expires. */
  ttl?: number;
  createdAt: Date;
  updatedAt: Date;
  accessedAt: Date;
  accessCount: number;
}

export interface StorageProviderConfig {
  /** The time to live in seconds of what is set without one. 0: for ever. Default: the server's. */
  defaultTTL?: number | undefined;
  /** Has no effect: the limit is the server's, STOCKROOM_MAX_BYTES. */
  maxSize?: number | undefined;
  /** Has no effect: the server logs every request. */
  debug?: boolean | undefined;
}

export interface Component {
  framework: string;
  name: string;
  sourceCode: string;
  demoCode?: string;
  metadata?: Value;
  dependencies?: string[];
  registryDependencies?: string[];
  githubSha?: string;
  fileSize?: number;
  lastModified?: Date;
}

export interface ComponentMetadata {
  framework: string;
  name: string;
  fileSize?: number;
  lastModified?: Date;
  dependencies?: string[];
  registryDependencies?: string[];
}

export interface Block {
  framework: string;
  name: string;
  category?: string;
  type?: 'simple' | 'complex';
  description?: string;
  files: Value;
  structure?: Value;
  dependencies?: string[];
  componentsUsed?: string[];
  totalSize?: number;
  githubSha?: string;
}

export interface BlockMetadata {
  framework: string;
  name: string;
  category?: string;
  type?: 'simple' | 'complex';
  description?: string;
  totalSize?: number;
}

/**
 * Stockroom behind the methods of the embedded store (PGlite) that it replaces, so that a program moves over by
 * changing one import. What is missing is undefined.
 *
 * Every value that JSON can hold comes back as it was set, under any key. The keys `component:<framework>:<name>` and
 * `block:<framework>:<name>` hold components and blocks, which other clients of the server see as such; the README
 * says what that means for other values there.
 */
export class StorageProvider {
  readonly #stockroom: Stockroom;
  readonly #defaultTTL: number | undefined;
  #disposed = false;

  /** Takes a client or its options; without them the environment's STOCKROOM_URL and STOCKROOM_API_KEY hold. */
  constructor(stockroom?: Stockroom | StockroomOptions | null, config: StorageProviderConfig = {}) {
    this.#stockroom = stockroom instanceof Stockroom ? stockroom : new Stockroom(stockroom ?? {});
    this.#defaultTTL = config.defaultTTL;
  }

  async get(key: string): Promise<Value> {
    const stored = await this.#use().get<Value>(toStored(key));
    return stored === undefined ? undefined : fromJSON(key, stored);
  }

  /** The time to live is in seconds, rounded up; 0 or less is for ever. */
  async set(key: string, value: Value, ttl?: number): Promise<void> {
    await this.#use().put(toStored(key), toJSON(key, value), { ttl: this.#ttl(ttl) });
  }

  async has(key: string): Promise<boolean> {
    return this.#use().has(toStored(key));
  }

  /** Tells whether there was an item to delete. */
  async delete(key: string): Promise<boolean> {
    return this.#use().delete(toStored(key));
  }

  /** Deletes everything that the server holds, whoever put it there. Needs the scope `admin`. */
  async clear(): Promise<void> {
    await this.#use().clear();
  }

  /** Returns the values of the keys that there are; up to 1,000 come from one snapshot. */
  async mget(keys: string[]): Promise<Map<string, Value>> {
    const stockroom = this.#use();
    const result = new Map<string, Value>();
    await inBatches(keys, async (batch) => {
      const stored = await stockroom.mget(batch.map(toStored));
      for (const key of batch) {
        const value = stored.get(toStored(key));
        if (value !== undefined) result.set(key, fromJSON(key, value));
      }
    });
    return result;
  }

  /** Stores every entry or none. */
  async mset(entries: Map<string, Value>, ttl?: number): Promise<void> {
    const stockroom = this.#use();
    const stored = new Map<string, Value>();
    for (const [key, value] of entries) stored.set(toStored(key), toJSON(key, value));
    if (stored.size > 0) await stockroom.mset(stored, { ttl: this.#ttl(ttl) });
  }

  async getMetadata(key: string): Promise<StorageMetadata | undefined> {
    const metadata = await this.#use().metadata(toStored(key));
    if (metadata === undefined) return undefined;
    return {
      key,
      size: metadata.sizeBytes,
      ...(metadata.ttlSeconds === 0 ? {} : { ttl: metadata.ttlSeconds }),
      createdAt: new Date(metadata.createdAt),
      updatedAt: new Date(metadata.updatedAt),
      accessedAt: new Date(metadata.accessedAt),
      accessCount: metadata.accessCount,
    };
  }

  /** Returns the keys that match the glob: `*` is any run of characters, `?` any one, `\` takes the next as it is. */
  async keys(pattern?: string): Promise<string[]> {
    const stockroom = this.#use();
    const keys: string[] = [];
    if (!pattern) {
      for await (const stored of stockroom.keys()) keys.push(fromStored(stored));
      return keys;
    }
    for await (const stored of stockroom.keys({ pattern })) {
      if (fromStored(stored) === stored) keys.push(stored);
    }
    for await (const stored of stockroom.keys({ pattern: escape + pattern })) {
      const key = fromStored(stored);
      if (key !== stored) keys.push(key);
    }
    return keys;
  }

  /** Returns how many items there are. */
  async size(): Promise<number> {
    const stockroom = this.#use();
    try {
      return (await stockroom.stats()).items.total;
    } catch (error) {
      // That needs the scope `admin`; who may only read has to count.
      if (!(error instanceof StockroomError) || error.code !== 'forbidden') throw error;
      let count = 0;
      for await (const _ of stockroom.keys()) count++;
      return count;
    }
  }

  /** Ends the use of this object: every later call is rejected. Calls under way are finished. */
  async dispose(): Promise<void> {
    this.#disposed = true;
  }

  isDisposed(): boolean {
    return this.#disposed;
  }

  async getComponent(framework: string, name: string): Promise<Component | undefined> {
    const stored = await this.#use().components.get(framework, name);
    return stored && { ...dated(plain(stored)), framework, name };
  }

  async setComponent(component: Component, ttl?: number): Promise<void> {
    const { framework, name } = component;
    const body = toJSON(`component:${framework}:${name}`, component) as Schemas['Component'];
    await this.#use().components.put(framework, name, body, { ttl: this.#ttl(ttl) });
  }

  /** Returns the framework's components without their source, in the order of their names. */
  async listComponents(framework: string): Promise<ComponentMetadata[]> {
    const list: ComponentMetadata[] = [];
    for await (const item of this.#use().components.list(framework)) {
      const { name, fileSize, lastModified, dependencies, registryDependencies } = item;
      list.push(dated(defined({ framework, name, fileSize, lastModified, dependencies, registryDependencies })));
    }
    return list;
  }

  async getBlock(framework: string, name: string): Promise<Block | undefined> {
    const stored = await this.#use().blocks.get(framework, name);
    return stored && { ...stored, framework, name };
  }

  async setBlock(block: Block, ttl?: number): Promise<void> {
    const { framework, name } = block;
    const body = toJSON(`block:${framework}:${name}`, block) as Schemas['Block'];
    await this.#use().blocks.put(framework, name, body, { ttl: this.#ttl(ttl) });
  }

  /** Returns the framework's blocks, of a category or of all, without their files, in the order of their names. */
  async listBlocks(framework: string, category?: string): Promise<BlockMetadata[]> {
    const list: BlockMetadata[] = [];
    for await (const item of this.#use().blocks.list(framework, category ? { category } : {})) {
      const { name, type, description, totalSize } = item;
      list.push(defined({ framework, name, category: item.category, type, description, totalSize }));
    }
    return list;
  }

  #use(): Stockroom {
    if (this.#disposed) throw new Error('the storage provider has been disposed');
    return this.#stockroom;
  }

  #ttl(ttl = this.#defaultTTL): number | undefined {
    return ttl === undefined ? undefined : Math.max(0, Math.ceil(ttl));
  }
}

// The embedded store took keys such as `block:react:login-01:demo`, which the server refuses, for they are neither a
// block's nor an entry's. They are kept under this sign, as entries; a key that looks like one of these gets one more.
const escape = '~';

function irregular(key: string): boolean {
  const bare = key.replace(/^~+/, '');
  return /^(component|block)(:|$)/.test(bare) && !(bare === key && /^[^:]+:[^:]+:[^:]+$/.test(key));
}

function toStored(key: string): string {
  return irregular(key) ? escape + key : key;
}

function fromStored(stored: string): string {
  const key = stored.slice(escape.length);
  return key !== stored && toStored(key) === stored ? key : stored;
}

// Stands in the metadata of a component that was set as a mere string, its source.
const sourceOnly = 'stockroom:sourceOnly';

/** Makes of a value what the server takes under the key. */
function toJSON(key: string, value: Value): unknown {
  const kind = kindOf(key);
  if (kind === undefined) return value;
  if (kind === 'component' && typeof value === 'string') return { sourceCode: value, metadata: { [sourceOnly]: true } };
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  const item: Record<string, unknown> = {};
  for (const [name, field] of Object.entries(value)) {
    // The embedded store answered null for every field that was never set. The server keeps these apart.
    if (field === null && name !== 'structure') continue;
    item[name] = field instanceof Date ? field.toISOString().replace('Z', dateOffset) : field;
  }
  return item;
}

/** Undoes toJSON. */
function fromJSON(key: string, stored: Value): Value {
  if (kindOf(key) !== 'component') return stored;
  if (stored.metadata?.[sourceOnly] === true) return stored.sourceCode;
  return stored.lastModified?.endsWith(dateOffset) ? dated(stored) : stored;
}

// By this offset, which means UTC as Z does (RFC 3339, 4.3), a Date is told from a string when it comes back.
const dateOffset = '-00:00';

function kindOf(key: string): string | undefined {
  if (toStored(key) !== key) return undefined;
  return /^(component|block):/.exec(key)?.[1];
}

function dated<T extends { lastModified?: string }>(item: T): Omit<T, 'lastModified'> & { lastModified?: Date } {
  const { lastModified, ...rest } = item;
  return lastModified === undefined ? rest : { ...rest, lastModified: new Date(lastModified) };
}

/** Takes from a component what only says that it was set as a string. */
function plain(component: Schemas['Component']): Schemas['Component'] {
  if (component.metadata?.[sourceOnly] !== true) return component;
  const { metadata: _, ...rest } = component;
  return rest;
}

/** Leaves out the fields that are undefined. */
function defined<T extends object>(item: T): T {
  return Object.fromEntries(Object.entries(item).filter(([, field]) => field !== undefined)) as T;
}
