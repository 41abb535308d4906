import * as vitest from 'vitest';
import keyvTestSuite, { keyvIteratorTests } from '@keyv/test-suite';
import { Keyv } from 'keyv';
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { KeyvStockroom } from '../src/keyv.js';
import { baseUrl, collect, connect, writeKey } from './server.js';

const client = connect();

beforeEach(async () => {
  await client.clear();
});

describe("Keyv's own tests", () => {
  const store = () => new KeyvStockroom({ client });
  keyvTestSuite(vitest, Keyv, store);
  keyvIteratorTests(vitest, Keyv, store);
});

describe("Keyv's own tests, by an API key that may not clear", () => {
  const store = () => new KeyvStockroom({ baseUrl, apiKey: writeKey });
  keyvTestSuite(vitest, Keyv, store);
  keyvIteratorTests(vitest, Keyv, store);
});

describe('keys', () => {
  const long = 'ü'.repeat(500);
  const keys = [
    '',
    '.',
    'a/b c?#%',
    'component:react:button',
    'block:',
    'line\nbreak\u0000\u007f\u009f',
    '%000a',
    '*?\\',
    '\ud83d\ude42',
    '\ud83d',
    long,
    `${long}!`,
    'x'.repeat(300),
    `${'x'.repeat(170)}\n${'x'.repeat(100)}`,
    '__proto__',
  ];

  it.each(keys)('may be anything: %j', async (key) => {
    const keyv = new Keyv({ store: new KeyvStockroom({ client }), namespace: 'n', throwOnErrors: true });
    expect(await keyv.get(key)).toBeUndefined();
    await keyv.set(key, { key });
    expect(await keyv.get(key)).toEqual({ key });
    expect(await keyv.has(key)).toBe(true);
    expect(await collect(keyv.iterator!({}))).toEqual([[key, { key }]]);
    expect(await keyv.get([key, 'other'])).toEqual([{ key }, undefined]);
    expect(await keyv.delete(key)).toBe(true);
    expect(await keyv.has(key)).toBe(false);
  });

  it('do not meet each other', async () => {
    const keyv = new Keyv({ store: new KeyvStockroom({ client }), throwOnErrors: true });
    await keyv.setMany(keys.map((key) => ({ key, value: key })));
    expect(await keyv.getMany(keys)).toEqual(keys);
    expect(new Set((await collect(keyv.iterator!({}))).map(([key]) => key))).toEqual(new Set(keys));
    expect((await client.stats()).items).toMatchObject({ entries: keys.length, total: keys.length });
  });

  it('of other namespaces, prefixes and clients are left alone', async () => {
    await client.put('keyv-not', 1);
    const store = (prefix?: string) => new KeyvStockroom({ client, ...(prefix ? { prefix } : {}) });
    const keyvs = [
      new Keyv({ store: store(), namespace: '*' }),
      new Keyv({ store: store(), namespace: 'a' }),
      new Keyv({ store: store(), namespace: 'ab' }),
      new Keyv({ store: store('other'), namespace: 'a' }),
    ];
    for (const keyv of keyvs) await keyv.setMany([{ key: 'k', value: 1 }, { key: 'x'.repeat(300), value: 1 }]);
    for (const [cleared, keyv] of keyvs.entries()) {
      await keyv.clear();
      for (const [i, each] of keyvs.entries()) {
        expect(await each.has(['k', 'x'.repeat(300)])).toEqual([i > cleared, i > cleared]);
      }
    }
    expect(await client.has('keyv-not')).toBe(true);
  });

  it('stay found when one store serves several namespaces', async () => {
    const store = new KeyvStockroom({ client });
    const a = new Keyv({ store, namespace: 'a' });
    await a.set('x'.repeat(300), 1);
    const b = new Keyv({ store, namespace: 'b' });
    expect(await b.has('x'.repeat(300))).toBe(false);
    expect(await a.get('x'.repeat(300))).toBe(1);
  });

  it('come in any number', async () => {
    const store = new KeyvStockroom({ client });
    const entries = Array.from({ length: 2500 }, (_, i) => ({ key: `k${i}`, value: i, ttl: i % 2 ? 60_000 : undefined }));
    await store.setMany(entries);
    expect(await store.getMany(entries.map((entry) => entry.key))).toEqual(entries.map((entry) => entry.value));
    expect((await client.metadata('keyv:k1'))?.ttlSeconds).toBe(60);
    expect((await client.metadata('keyv:k2'))?.ttlSeconds).toBe(0);
    expect(await collect(store.iterator())).toHaveLength(2500);
    expect(await store.deleteMany(entries.map((entry) => entry.key))).toBe(true);
    expect(await collect(store.iterator())).toEqual([]);
  });

  it('come with values of any size together', async () => {
    const store = new KeyvStockroom({ client });
    const value = 'x'.repeat(3 << 20);
    await store.setMany(['a', 'b', 'c', 'd', 'e'].map((key) => ({ key, value })));
    expect((await store.getMany(['a', 'e'])).every((each) => each === value)).toBe(true);
    await expect(store.set('f', 'x'.repeat(9 << 20))).rejects.toMatchObject({ status: 413, code: 'body_too_large' });
  });
});

describe('times to live', () => {
  it('are exact here, and rounded up on the server', async () => {
    const store = new KeyvStockroom({ client });
    const start = Date.now();
    vi.useFakeTimers({ toFake: ['Date'], now: start });
    onTestFinished(() => void vi.useRealTimers());
    await store.set('k', 'v', 60_300);
    await store.set('longer', 'v', 61_001);
    expect((await client.metadata('keyv:k'))?.ttlSeconds).toBe(61);
    expect((await client.metadata('keyv:longer'))?.ttlSeconds).toBe(62);
    vi.setSystemTime(start + 60_299);
    expect(await store.has('k')).toBe(true);
    vi.setSystemTime(start + 60_301);
    expect(await store.has('k')).toBe(false);
    // The server has it still, but here it is over.
    expect(await client.has('keyv:k')).toBe(true);
    expect(await store.get('k')).toBeUndefined();
    expect(await store.getMany(['k', 'longer'])).toEqual([undefined, 'v']);
    expect(await collect(store.iterator())).toEqual([['longer', 'v']]);
  });

  it.each([undefined, 0, Number.POSITIVE_INFINITY])('are for ever with %s', async (ttl) => {
    const store = new KeyvStockroom({ client });
    await store.set('k', 'v', ttl);
    expect((await client.metadata('keyv:k'))?.ttlSeconds).toBe(0);
    expect(await store.get('k')).toBe('v');
  });

  it('have the longest that the server takes', async () => {
    const store = new KeyvStockroom({ client });
    await store.set('k', 'v', Number.MAX_SAFE_INTEGER);
    expect((await client.metadata('keyv:k'))?.ttlSeconds).toBe(3_155_760_000);
  });
});

describe('the adapter', () => {
  it('takes values without serialization', async () => {
    const keyv = new Keyv({ store: new KeyvStockroom({ client }), serialize: undefined, deserialize: undefined });
    await keyv.set('k', { a: 1 });
    expect(await keyv.get('k')).toEqual({ a: 1 });
  });

  it('tells its errors', async () => {
    const keyv = new Keyv({ store: new KeyvStockroom({ baseUrl, apiKey: 'wrong' }), namespace: 'n' });
    const errors: unknown[] = [];
    keyv.on('error', (error: unknown) => errors.push(error));
    expect(await keyv.get('k')).toBeUndefined();
    expect(await keyv.set('k', 1)).toBe(false);
    expect(errors).toMatchObject([{ code: 'unauthorized' }, { code: 'unauthorized' }]);
    await expect(new KeyvStockroom({ baseUrl, apiKey: 'wrong' }).get('k')).rejects.toMatchObject({ code: 'unauthorized' });
  });

  it('is not misled by what is none of its own', async () => {
    await client.put('keyv:k', null);
    expect(await new KeyvStockroom({ client }).get('k')).toBeUndefined();
  });

  it('refuses a prefix and a namespace that leave no room', () => {
    for (const prefix of ['', 'a:b', 'component', 'block', 'x'.repeat(41)]) {
      expect(() => new KeyvStockroom({ client, prefix })).toThrow(TypeError);
    }
    expect(() => new Keyv({ store: new KeyvStockroom({ client }), namespace: 'ü'.repeat(51) })).toThrow(RangeError);
  });

  it('has nothing to disconnect', async () => {
    const keyv = new Keyv({ store: new KeyvStockroom({ client }) });
    await keyv.set('k', 1);
    await keyv.disconnect();
    expect(await keyv.get('k')).toBe(1);
  });
});
