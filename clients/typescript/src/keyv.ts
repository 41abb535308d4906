import { createHash } from 'node:crypto';
import { EventEmitter } from 'node:events';
import type { KeyvStoreAdapter, StoredData } from 'keyv';
import { inBatches } from './batches.js';
import { defaultBaseUrl, Stockroom, type StockroomOptions } from './client.js';
import { StockroomError } from './errors.js';

export interface KeyvStockroomOptions extends StockroomOptions {
  /** A client that is there already, instead of the options for one. */
  client?: Stockroom | undefined;
  /** What every key begins with on the server, before a colon; 1 to 40 of `A-Z a-z 0-9 _ . -`. Default: keyv. */
  prefix?: string | undefined;
}

/** What stands on the server under a key. */
interface Stored {
  /** The key, escaped; the name of the item has it only where it fits. */
  key: string;
  value: unknown;
  /** When it expires, in milliseconds since 1970. */
  expires?: number;
}

interface Entry {
  key: string;
  value: unknown;
  ttl?: number;
}

const longestKey = 255;
const longestPrefix = 40;
const longestNamespace = 100;
const longestTTL = 3_155_760_000;

/**
 * Keyv's storage adapter for Stockroom: `new Keyv({ store: new KeyvStockroom() })`.
 *
 * Any key will do: what the server would refuse in one is escaped, and one that is too long is cut and told from
 * others by its hash. Times to live are exact to the millisecond, by this machine's clock as Keyv's own are; the
 * server, which counts whole seconds, deletes up to a second later.
 */
export class KeyvStockroom extends EventEmitter implements KeyvStoreAdapter {
  /** Keyv reads from these whether a store can be iterated: it knows the names of some, and PostgreSQL's is ours. */
  opts: { dialect: string; url: string };
  readonly client: Stockroom;
  readonly #prefix: string;
  #namespace: string | undefined;

  constructor(options: KeyvStockroomOptions = {}) {
    super();
    const { client, prefix = 'keyv', ...rest } = options;
    if (!/^[\w.-]+$/.test(prefix) || prefix.length > longestPrefix || prefix === 'component' || prefix === 'block') {
      throw new TypeError(`prefix must be 1 to ${longestPrefix} of A-Z a-z 0-9 _ . -, not component and not block`);
    }
    this.client = client ?? new Stockroom(rest);
    this.#prefix = `${prefix}:`;
    this.opts = { dialect: 'postgres', url: String(rest.baseUrl ?? defaultBaseUrl) };
  }

  /** Keyv sets it. It bounds what clear deletes and what the iterator walks; in the keys it is Keyv that puts it. */
  get namespace(): string | undefined {
    return this.#namespace;
  }

  set namespace(namespace: string | undefined) {
    if (namespace !== undefined && Buffer.byteLength(escape(namespace)) > longestNamespace) {
      throw new RangeError(`the namespace must not be longer than ${longestNamespace} bytes`);
    }
    this.#namespace = namespace;
  }

  async get<Value>(key: string): Promise<StoredData<Value> | undefined> {
    try {
      return valueOf<Value>(await this.client.get<Stored>(this.#address(key)));
    } catch (error) {
      // Of all methods Keyv keeps only this one's errors to itself.
      if (this.listenerCount('error') > 0) this.emit('error', error);
      throw error;
    }
  }

  async getMany<Value>(keys: string[]): Promise<Array<StoredData<Value | undefined>>> {
    const found = new Map<string, Stored>();
    await inBatches(keys, async (batch) => {
      const addresses = batch.map((key) => this.#address(key));
      for (const [address, stored] of await this.client.mget<Stored>(addresses)) found.set(address, stored);
    });
    return keys.map((key) => valueOf<Value>(found.get(this.#address(key))));
  }

  /** The time to live is in milliseconds; without one, or with 0, for ever. */
  async set(key: string, value: unknown, ttl?: number): Promise<void> {
    const { address, stored, seconds } = this.#item({ key, value, ttl });
    await this.client.put(address, stored, { ttl: seconds });
  }

  /** Stores the entries, at least those with the same time to live in one transaction. */
  async setMany(entries: Entry[]): Promise<void> {
    const byTTL = new Map<number, Map<string, Stored>>();
    for (const entry of entries) {
      const { address, stored, seconds } = this.#item(entry);
      byTTL.set(seconds, (byTTL.get(seconds) ?? new Map()).set(address, stored));
    }
    for (const [ttl, items] of byTTL) {
      await inBatches([...items], async (batch) => {
        await this.client.mset(new Map(batch), { ttl });
      });
    }
  }

  async has(key: string): Promise<boolean> {
    return (await this.hasMany([key]))[0] === true;
  }

  async hasMany(keys: string[]): Promise<boolean[]> {
    return (await this.getMany(keys)).map((value) => value !== undefined);
  }

  async delete(key: string): Promise<boolean> {
    return this.client.delete(this.#address(key));
  }

  /** Tells whether any of the keys had a value. */
  async deleteMany(keys: string[]): Promise<boolean> {
    let deleted = 0;
    await inBatches(keys, async (batch) => {
      deleted += await this.client.mdelete(batch.map((key) => this.#address(key)));
    });
    return deleted > 0;
  }

  /** Deletes what the namespace has; without a namespace everything under the prefix. Nothing else is touched. */
  async clear(): Promise<void> {
    const pattern = this.#pattern(this.namespace);
    try {
      await this.client.clear({ pattern });
    } catch (error) {
      // To clear at once needs the scope `admin`; who may only write does it in batches.
      if (!(error instanceof StockroomError) || error.code !== 'forbidden') throw error;
      const keys: string[] = [];
      for await (const key of this.client.keys({ pattern })) keys.push(key);
      await inBatches(keys, async (batch) => {
        await this.client.mdelete(batch);
      });
    }
  }

  /** Walks the keys of the namespace, or all, and their values. */
  async *iterator<Value>(namespace?: string): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void> {
    let page: string[] = [];
    for await (const address of this.client.keys({ pattern: this.#pattern(namespace), pageSize: 100 })) {
      page.push(address);
      if (page.length === 100) {
        yield* this.#entries<Value>(page);
        page = [];
      }
    }
    yield* this.#entries<Value>(page);
  }

  /** There is nothing to close. */
  async disconnect(): Promise<void> {}

  async *#entries<Value>(addresses: string[]): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void> {
    for (const stored of (await this.client.mget<Stored>(addresses)).values()) {
      const value = valueOf<Awaited<Value>>(stored);
      if (value !== undefined) yield [unescape(stored.key), value as Awaited<Value>];
    }
  }

  #item({ key, value, ttl }: Entry): { address: string; stored: Stored; seconds: number } {
    const stored = { key: escape(String(key)), value };
    const address = this.#address(key);
    if (!ttl || !Number.isFinite(ttl)) return { address, stored, seconds: 0 };
    const seconds = Math.min(Math.max(1, Math.ceil(ttl / 1000)), longestTTL);
    return { address, stored: { ...stored, expires: Date.now() + ttl }, seconds };
  }

  /** Returns the key of the server's under which the key is. */
  #address(key: string): string {
    const address = this.#prefix + escape(String(key));
    if (Buffer.byteLength(address) <= longestKey) return address;
    // No escape sequence looks like this, so it meets no other key.
    const tail = `%sha256-${createHash('sha256').update(address).digest('hex')}`;
    let head = '';
    let room = longestKey - tail.length;
    for (const char of address) {
      room -= Buffer.byteLength(char);
      if (room < 0) break;
      head += char;
    }
    return head + tail;
  }

  #pattern(namespace: string | undefined): string {
    const start = this.#prefix + (namespace ? `${escape(namespace)}:` : '');
    return `${start.replace(/[*?\\]/g, '\\$&')}*`;
  }
}

function valueOf<Value>(stored: Stored | null | undefined): StoredData<Value> | undefined {
  if (stored == null || (stored.expires !== undefined && Date.now() > stored.expires)) return undefined;
  return stored.value as StoredData<Value>;
}

// Control characters and unpaired surrogates, which no key of the server's has, and the sign of the escape itself.
function escape(key: string): string {
  return key.replace(/[%\p{Cc}\p{Cs}]/gu, (char) => `%${char.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

function unescape(key: string): string {
  return key.replace(/%([0-9a-f]{4})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 16)));
}

export default KeyvStockroom;
