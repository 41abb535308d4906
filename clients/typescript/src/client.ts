import createClient, { type Client } from 'openapi-fetch';
import { errorOf, isProblem, StockroomError } from './errors.js';
import { encode } from './json.js';
import type { components, paths } from './openapi.gen.js';
import { send } from './transport.js';

/** The schemas of the contract by name, such as `Schemas['Metadata']`. */
export type Schemas = components['schemas'];

export interface StockroomOptions {
  /** Where the server is. Default: the environment's STOCKROOM_URL, else http://127.0.0.1:8080. */
  baseUrl?: string | URL | undefined;
  /** The API key. Default: the environment's STOCKROOM_API_KEY; without either, none is sent. */
  apiKey?: string | undefined;
  /** How long a call may take, its retries included, in milliseconds. Infinity: for ever. Default: 60000. */
  timeoutMs?: number | undefined;
  /** How often a call is tried again after a 503 with Retry-After. 0: never. Default: 3. */
  maxRetries?: number | undefined;
  /** Headers for every request. */
  headers?: Record<string, string> | undefined;
  /** What to use instead of the global fetch. */
  fetch?: typeof globalThis.fetch | undefined;
}

/** What every call takes. */
export interface CallOptions {
  /** Aborts the call, which then fails with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** Instead of the client's timeoutMs. */
  timeoutMs?: number | undefined;
  /** An id of the caller's own for the request; the server's log has it. */
  requestId?: string | undefined;
}

export interface ReadOptions extends CallOptions {
  /** Read the database, past the server's cache. */
  noCache?: boolean | undefined;
}

export interface ConditionalReadOptions extends ReadOptions {
  /** An ETag that is known already: where the item still has it, the value is not sent again. */
  ifNoneMatch?: string | undefined;
}

export interface WriteOptions extends CallOptions {
  /** Write only where the item has this ETag, or `*`: where there is one. */
  ifMatch?: string | undefined;
  /** `*`: write only where there is no item; an ETag: only where the item has another. */
  ifNoneMatch?: string | undefined;
}

export interface TTLOptions {
  /** The time to live in whole seconds. 0: for ever. Absent: the server's default. */
  ttl?: number | undefined;
}

export interface ListOptions extends CallOptions {
  /** How many entries to ask for at once, 1 to 1000. Default: 1000. */
  pageSize?: number | undefined;
}

export interface CatalogueOptions extends CallOptions {
  /** Words that occur in the name, the title or the description. */
  q?: string | undefined;
  /** Types, separated by commas: `registry:ui,registry:block`. */
  type?: string | undefined;
  /** The most items, 1,000 by default. */
  limit?: number | undefined;
  /** How many items to leave out before them. */
  offset?: number | undefined;
}

export interface SearchOptions extends CallOptions {
  framework?: string | undefined;
  kind?: 'component' | 'block' | undefined;
  category?: string | undefined;
  /** How many results to ask for at once, 1 to 100. Default: 20. */
  pageSize?: number | undefined;
}

/** What the headers of an item say. */
export interface ItemInfo {
  etag: string;
  lastModified: Date;
  /** When the item expires; absent where it never does. */
  expires?: Date;
  /** The server cannot reach its database: the item may be older than it promises. */
  stale: boolean;
}

/** An item, or, with `modified: false`, that it still has the ETag which the caller knows. */
export type Found<T> = (ItemInfo & { modified: true; value: T }) | (ItemInfo & { modified: false; value?: never });

/** One operation of a transaction: it has one of these members. */
export interface Operation extends Omit<Schemas['Operation'], 'set'> {
  set?: Omit<Schemas['SetOperation'], 'value'> & { value: unknown };
}

/** What a write answers. */
export interface Written {
  /** There was no item before. */
  created: boolean;
  metadata: Schemas['Metadata'];
}

export const defaultBaseUrl = 'http://127.0.0.1:8080';

/**
 * A client of one Stockroom server, or of several behind one address. It keeps no state and needs no closing.
 *
 * What is missing is `undefined` or `false`; everything else that goes wrong is a {@link StockroomError}.
 */
export class Stockroom {
  /** Every operation of the contract, typed, with the same base URL, API key, timeout and retries. */
  readonly api: Client<paths>;
  readonly components: Components;
  readonly blocks: Blocks;
  /** Components and blocks as shadcn registry items. */
  readonly registry: Registry;
  readonly #call: Call;

  constructor(options: StockroomOptions = {}) {
    const env = globalThis.process?.env ?? {};
    const baseUrl = new URL(options.baseUrl ?? (env.STOCKROOM_URL || defaultBaseUrl));
    if (!/^https?:$/.test(baseUrl.protocol)) throw new TypeError(`baseUrl is neither http nor https: ${baseUrl.href}`);
    const apiKey = options.apiKey ?? env.STOCKROOM_API_KEY;
    const timeoutMs = positive('timeoutMs', options.timeoutMs ?? 60_000);
    const maxRetries = options.maxRetries ?? 3;
    const transport = { maxRetries, fetch: options.fetch ?? globalThis.fetch };
    this.api = createClient<paths>({
      baseUrl: baseUrl.origin + baseUrl.pathname,
      headers: { ...options.headers, ...(apiKey ? { Authorization: `Bearer ${apiKey}` } : {}) },
      fetch: (request) => send(request, timeoutMs, transport),
      bodySerializer: encode,
      pathSerializer,
    });
    this.#call = (call = {}) => ({
      signal: call.signal,
      headers: { 'X-Request-Id': call.requestId },
      ...(call.timeoutMs === undefined
        ? {}
        : { fetch: (request: Request) => send(request, positive('timeoutMs', call.timeoutMs), transport) }),
    });
    this.components = new Components(this.api, this.#call);
    this.blocks = new Blocks(this.api, this.#call);
    this.registry = new Registry(this.api, this.#call);
  }

  /** Returns the item's value, which counts as an access. The type is the caller's word. */
  async get<T = unknown>(key: string, options?: ReadOptions): Promise<T | undefined> {
    return (await this.read<T>(key, options))?.value;
  }

  /** Returns the item's value and what its headers say; with ifNoneMatch the value only where it is another. */
  read<T = unknown>(key: string, options: ConditionalReadOptions = {}): Promise<Found<T> | undefined> {
    const params = { path: { key }, header: readHeaders(options) };
    return found<T>(this.api.GET('/v1/items/{key}', { params, ...this.#call(options) }));
  }

  /** Returns what the item's headers say, without its value. It does not count as an access. */
  head(key: string, options: ReadOptions = {}): Promise<ItemInfo | undefined> {
    const params = { path: { key }, header: readHeaders(options) };
    return info(this.api.HEAD('/v1/items/{key}', { params, ...this.#call(options) }));
  }

  /** Tells whether there is an item. It does not count as an access. */
  async has(key: string, options?: ReadOptions): Promise<boolean> {
    return (await this.head(key, options)) !== undefined;
  }

  /** Stores the item, durably, in place of a former one. A `component:` or `block:` key takes nothing else. */
  async put(key: string, value: unknown, options: WriteOptions & TTLOptions = {}): Promise<Written> {
    const params = { path: { key }, query: { ttl: options.ttl }, header: writeHeaders(options) };
    const body = given(key, value) as Schemas['Item'];
    return written(this.api.PUT('/v1/items/{key}', { params, body, ...this.#call(options) }));
  }

  /** Deletes the item, and tells whether there was one. */
  delete(key: string, options: Omit<WriteOptions, 'ifNoneMatch'> = {}): Promise<boolean> {
    const params = { path: { key }, header: { 'If-Match': options.ifMatch } };
    return deleted(this.api.DELETE('/v1/items/{key}', { params, ...this.#call(options) }));
  }

  /** Returns what the server knows of the item. It does not count as an access. */
  async metadata(key: string, options?: CallOptions): Promise<Schemas['Metadata'] | undefined> {
    const params = { path: { key } };
    return optional(this.api.GET('/v1/items/{key}/metadata', { params, ...this.#call(options) }));
  }

  /** Starts the item's time to live anew, with ttl a new one. */
  async touch(key: string, options: CallOptions & TTLOptions = {}): Promise<Schemas['Metadata'] | undefined> {
    const params = { path: { key } };
    const body = { ttl: options.ttl };
    return optional(this.api.POST('/v1/items/{key}/touch', { params, body, ...this.#call(options) }));
  }

  /** Walks the keys that match the glob (`*`, `?`, `\` escapes), or all, in the order of their bytes. */
  keys(options: ListOptions & { pattern?: string | undefined } = {}): AsyncGenerator<string, void, undefined> {
    const { pattern, pageSize: limit = 1000 } = options;
    return pages(
      (cursor) => value(this.api.GET('/v1/items', { params: { query: { pattern, limit, cursor } }, ...this.#call(options) })),
      (page) => page.keys,
    );
  }

  /** Deletes the items that match the glob, or every item, at once. Needs the scope `admin`. */
  clear(options: CallOptions & { pattern?: string | undefined } = {}): Promise<Schemas['ClearResult']> {
    const params = { query: { pattern: options.pattern } };
    return value(this.api.DELETE('/v1/items', { params, ...this.#call(options) }));
  }

  /** Returns the values of the keys that there are, from one snapshot. */
  async mget<T = unknown>(keys: Iterable<string>, options: ReadOptions = {}): Promise<Map<string, T>> {
    const asked = [...keys];
    const params = { header: cacheHeaders(options) };
    const { items } = await value(this.api.POST('/v1/mget', { params, body: { keys: asked }, ...this.#call(options) }));
    const result = new Map<string, T>();
    for (const key of asked) {
      if (Object.hasOwn(items, key)) result.set(key, items[key] as T);
    }
    return result;
  }

  /** Stores every entry or none, in one transaction, and returns how many. */
  async mset(
    entries: ReadonlyMap<string, unknown> | Record<string, unknown>,
    options: CallOptions & TTLOptions = {},
  ): Promise<number> {
    const list: [string, unknown][] = entries instanceof Map ? [...entries] : Object.entries(entries);
    for (const [key, value] of list) given(key, value);
    const body = { entries: Object.fromEntries(list) as Record<string, Schemas['Item']>, ttl: options.ttl };
    return (await value(this.api.POST('/v1/mset', { body, ...this.#call(options) }))).stored;
  }

  /** Deletes every item of the keys or none, in one transaction, and returns how many there were. */
  async mdelete(keys: Iterable<string>, options?: CallOptions): Promise<number> {
    return (await value(this.api.POST('/v1/mdelete', { body: { keys: [...keys] }, ...this.#call(options) }))).deleted;
  }

  /**
   * Carries out the operations in one transaction: all of them, where every check holds, or none. Returns a result for
   * each. Where checks fail it rejects with `check_failed`, whose `errors` name them.
   */
  async transaction(operations: readonly Operation[], options?: CallOptions): Promise<Schemas['TransactionResult'][]> {
    const body = { operations } as Schemas['TransactionRequest'];
    return (await value(this.api.POST('/v1/transactions', { body, ...this.#call(options) }))).results;
  }

  /** Walks the components and blocks in which the words of q stand, the best first. */
  search(q: string, options: SearchOptions = {}): AsyncGenerator<Schemas['SearchResult'], void, undefined> {
    const { framework, kind, category, pageSize: limit } = options;
    return pages(
      (cursor) => {
        const params = { query: { q, framework, kind, category, limit, cursor } };
        return value(this.api.GET('/v1/search', { params, ...this.#call(options) }));
      },
      (page) => page.results,
    );
  }

  /** Returns what each framework has. */
  async frameworks(options?: CallOptions): Promise<Schemas['FrameworkUsage'][]> {
    return (await value(this.api.GET('/v1/frameworks', this.#call(options)))).frameworks;
  }

  /** Returns the store's usage and the server's state. Needs the scope `admin`. */
  stats(options?: CallOptions): Promise<Schemas['Stats']> {
    return value(this.api.GET('/v1/stats', this.#call(options)));
  }

  /** Deletes what has expired, then evicts as far as asked, else to the store's limit. Needs the scope `admin`. */
  maintenance(
    body: Schemas['MaintenanceRequest'] = {},
    options?: CallOptions,
  ): Promise<Schemas['MaintenanceResult']> {
    return value(this.api.POST('/v1/maintenance', { body, ...this.#call(options) }));
  }
}

/** The components, by framework and name: the items `component:<framework>:<name>`. */
export class Components {
  readonly #api: Client<paths>;
  readonly #call: Call;

  constructor(api: Client<paths>, call: Call) {
    this.#api = api;
    this.#call = call;
  }

  async get(framework: string, name: string, options?: ReadOptions): Promise<Schemas['Component'] | undefined> {
    return (await this.read(framework, name, options))?.value;
  }

  read(framework: string, name: string, options: ConditionalReadOptions = {}): Promise<Found<Schemas['Component']> | undefined> {
    const params = { path: { framework, name }, header: readHeaders(options) };
    return found(this.#api.GET('/v1/components/{framework}/{name}', { params, ...this.#call(options) }));
  }

  async has(framework: string, name: string, options: ReadOptions = {}): Promise<boolean> {
    const params = { path: { framework, name }, header: readHeaders(options) };
    const answer = this.#api.HEAD('/v1/components/{framework}/{name}', { params, ...this.#call(options) });
    return (await info(answer)) !== undefined;
  }

  put(framework: string, name: string, body: Schemas['Component'], options: WriteOptions & TTLOptions = {}): Promise<Written> {
    const params = { path: { framework, name }, query: { ttl: options.ttl }, header: writeHeaders(options) };
    return written(this.#api.PUT('/v1/components/{framework}/{name}', { params, body, ...this.#call(options) }));
  }

  delete(framework: string, name: string, options: Omit<WriteOptions, 'ifNoneMatch'> = {}): Promise<boolean> {
    const params = { path: { framework, name }, header: { 'If-Match': options.ifMatch } };
    return deleted(this.#api.DELETE('/v1/components/{framework}/{name}', { params, ...this.#call(options) }));
  }

  /** Walks the framework's components without their source, in the order of their names' bytes. */
  list(framework: string, options: ListOptions = {}): AsyncGenerator<Schemas['ComponentSummary'], void, undefined> {
    const limit = options.pageSize ?? 1000;
    return pages(
      (cursor) => {
        const params = { path: { framework }, query: { limit, cursor } };
        return value(this.#api.GET('/v1/components/{framework}', { params, ...this.#call(options) }));
      },
      (page) => page.items,
    );
  }
}

/** The blocks, by framework and name: the items `block:<framework>:<name>`. */
export class Blocks {
  readonly #api: Client<paths>;
  readonly #call: Call;

  constructor(api: Client<paths>, call: Call) {
    this.#api = api;
    this.#call = call;
  }

  async get(framework: string, name: string, options?: ReadOptions): Promise<Schemas['Block'] | undefined> {
    return (await this.read(framework, name, options))?.value;
  }

  read(framework: string, name: string, options: ConditionalReadOptions = {}): Promise<Found<Schemas['Block']> | undefined> {
    const params = { path: { framework, name }, header: readHeaders(options) };
    return found(this.#api.GET('/v1/blocks/{framework}/{name}', { params, ...this.#call(options) }));
  }

  async has(framework: string, name: string, options: ReadOptions = {}): Promise<boolean> {
    const params = { path: { framework, name }, header: readHeaders(options) };
    const answer = this.#api.HEAD('/v1/blocks/{framework}/{name}', { params, ...this.#call(options) });
    return (await info(answer)) !== undefined;
  }

  put(framework: string, name: string, body: Schemas['Block'], options: WriteOptions & TTLOptions = {}): Promise<Written> {
    const params = { path: { framework, name }, query: { ttl: options.ttl }, header: writeHeaders(options) };
    return written(this.#api.PUT('/v1/blocks/{framework}/{name}', { params, body, ...this.#call(options) }));
  }

  delete(framework: string, name: string, options: Omit<WriteOptions, 'ifNoneMatch'> = {}): Promise<boolean> {
    const params = { path: { framework, name }, header: { 'If-Match': options.ifMatch } };
    return deleted(this.#api.DELETE('/v1/blocks/{framework}/{name}', { params, ...this.#call(options) }));
  }

  /** Walks the framework's blocks without their files, in the order of their names' bytes. */
  list(
    framework: string,
    options: ListOptions & { category?: string | undefined } = {},
  ): AsyncGenerator<Schemas['BlockSummary'], void, undefined> {
    const { category, pageSize: limit = 1000 } = options;
    return pages(
      (cursor) => {
        const params = { path: { framework }, query: { category, limit, cursor } };
        return value(this.#api.GET('/v1/blocks/{framework}', { params, ...this.#call(options) }));
      },
      (page) => page.items,
    );
  }
}

/** Components and blocks in the form that the shadcn CLI reads. */
export class Registry {
  readonly #api: Client<paths>;
  readonly #call: Call;

  constructor(api: Client<paths>, call: Call) {
    this.#api = api;
    this.#call = call;
  }

  async get(framework: string, name: string, options: ReadOptions = {}): Promise<Schemas['RegistryItem'] | undefined> {
    const params = { path: { framework, name }, header: readHeaders(options) };
    const answer = this.#api.GET('/r/{framework}/{name}.json', { params, ...this.#call(options) });
    return (await found<Schemas['RegistryItem']>(answer))?.value;
  }

  /** Returns a page of what the framework holds, without the content of its files. */
  catalogue(framework: string, options: CatalogueOptions = {}): Promise<Schemas['Catalogue']> {
    const { q, type, limit, offset } = options;
    const params = { path: { framework }, query: { q, type, limit, offset } };
    return value(this.#api.GET('/r/{framework}/registry.json', { params, ...this.#call(options) }));
  }

  /** Publishes the item as a block or a component, under its own name. */
  put(framework: string, body: Schemas['RegistryItem'], options: WriteOptions = {}): Promise<Written> {
    const params = { path: { framework, name: body.name }, header: writeHeaders(options) };
    return written(this.#api.PUT('/r/{framework}/{name}.json', { params, body, ...this.#call(options) }));
  }
}

/** Makes of a call's options what openapi-fetch takes. */
type Call = (options?: CallOptions) => {
  signal?: AbortSignal;
  headers: Record<string, string | undefined>;
  fetch?: (request: Request) => Promise<Response>;
};

/** What openapi-fetch resolves to, whatever the operation. */
type Answer<T> = Promise<{ data?: T; error?: unknown; response: Response }>;

async function value<T>(answer: Answer<T>): Promise<T> {
  const { data, error, response } = await answer;
  if (!response.ok) throw errorOf(response, error);
  return data as T;
}

/** Like value, and undefined where there is no item. */
async function optional<T>(answer: Answer<T>): Promise<T | undefined> {
  const { error, response } = await answer;
  return isMissing(response, error) ? undefined : value(answer);
}

async function found<T>(answer: Answer<unknown>): Promise<Found<T> | undefined> {
  const { data, error, response } = await answer;
  if (response.status === 304) return { ...infoOf(response), modified: false };
  if (isMissing(response, error)) return undefined;
  if (!response.ok) throw errorOf(response, error);
  return { ...infoOf(response), modified: true, value: data as T };
}

async function info(answer: Answer<unknown>): Promise<ItemInfo | undefined> {
  const { error, response } = await answer;
  if (response.status === 404) return undefined;
  if (!response.ok) throw errorOf(response, error);
  return infoOf(response);
}

async function written(answer: Answer<Schemas['Metadata']>): Promise<Written> {
  const metadata = await value(answer);
  return { created: (await answer).response.status === 201, metadata };
}

async function deleted(answer: Answer<unknown>): Promise<boolean> {
  const { error, response } = await answer;
  if (isMissing(response, error)) return false;
  await value(answer);
  return true;
}

// A 404 that the server did not write is no missing item: the base URL is wrong.
function isMissing(response: Response, error: unknown): boolean {
  return response.status === 404 && isProblem(error) && error.code === 'not_found';
}

function infoOf({ headers }: Response): ItemInfo {
  const expires = headers.get('Stockroom-Expires');
  return {
    etag: headers.get('ETag') ?? '',
    lastModified: new Date(headers.get('Last-Modified') ?? Number.NaN),
    ...(expires === null ? {} : { expires: new Date(expires) }),
    stale: headers.get('Stockroom-Stale') === 'true',
  };
}

async function* pages<P extends { nextCursor?: string }, T>(
  fetchPage: (cursor: string | undefined) => Promise<P>,
  itemsOf: (page: P) => T[],
): AsyncGenerator<T, void, undefined> {
  let cursor: string | undefined;
  do {
    const page = await fetchPage(cursor);
    yield* itemsOf(page);
    cursor = page.nextCursor;
  } while (cursor !== undefined);
}

function cacheHeaders(options: ReadOptions): { 'Cache-Control'?: string } {
  return options.noCache ? { 'Cache-Control': 'no-cache' } : {};
}

function readHeaders(options: ConditionalReadOptions): { 'Cache-Control'?: string; 'If-None-Match'?: string } {
  return { ...cacheHeaders(options), 'If-None-Match': options.ifNoneMatch };
}

function writeHeaders(options: WriteOptions): { 'If-Match'?: string; 'If-None-Match'?: string } {
  return { 'If-Match': options.ifMatch, 'If-None-Match': options.ifNoneMatch };
}

// A URL cannot hold these as one segment: `..` and `.` are resolved away, so that deleting the item `.` would ask to
// clear the store.
function pathSerializer(pathname: string, params: Record<string, unknown>): string {
  return pathname.replace(/\{([^{}]+)\}/g, (_, name: string) => {
    const segment = String(params[name]);
    if (segment === '' || segment === '.' || segment === '..') {
      throw new StockroomError({ status: 400, code: 'invalid_key', detail: `${name} must not be ${JSON.stringify(segment)}` });
    }
    try {
      return encodeURIComponent(segment);
    } catch (cause) {
      throw new StockroomError({ status: 400, code: 'invalid_key', detail: `${name} has an unpaired surrogate`, cause });
    }
  });
}

// As a body, or as a member of one, undefined would be nothing at all.
function given(key: string, value: unknown): unknown {
  if (value === undefined) throw new TypeError(`undefined is no JSON value; it was to be put under ${key}`);
  return value;
}

function positive(name: string, number: number | undefined): number {
  if (number === undefined || !(number > 0)) throw new RangeError(`${name} must be greater than 0, and is ${number}`);
  return number;
}
