import { beforeEach, describe, expect, it } from 'vitest';
import { type Schemas, Stockroom, StockroomError } from '../src/index.js';
import { apiKey, baseUrl, collect, connect, readKey, writeKey } from './server.js';

const stockroom = connect();

beforeEach(async () => {
  await stockroom.clear();
});

describe('items', () => {
  const values: unknown[] = [
    null,
    false,
    0,
    -1.5e-9,
    Number.MAX_SAFE_INTEGER,
    '',
    'ünïcødé 🙂 "\\\n',
    [],
    {},
    { a: [1, { b: null }], '': 'empty name', 'with space': true },
    JSON.parse('{"__proto__": {"x": 1}, "constructor": 2}'),
  ];
  it.each(values.map((value) => [JSON.stringify(value), value]))('gives back %s', async (_, value) => {
    await stockroom.put('k', value);
    expect(await stockroom.get('k')).toStrictEqual(value);
    expect((await stockroom.mget(['k'])).get('k')).toStrictEqual(value);
  });

  const keys = ['a/b', 'a b', 'ä', '🙂', '%2F', 'a%2fb', '?x=1', '#h', '...', '{key}', '$&', '__proto__', "'", 'x:y:z:w'];
  it.each(keys)('takes the key %s', async (key) => {
    await stockroom.put(key, { key });
    expect(await stockroom.get(key)).toEqual({ key });
    expect(await collect(stockroom.keys())).toEqual([key]);
    expect((await stockroom.metadata(key))?.key).toBe(key);
    expect(await stockroom.mget([key])).toEqual(new Map([[key, { key }]]));
    expect(await stockroom.delete(key)).toBe(true);
    await stockroom.mset({ [key]: 1 });
    expect(await stockroom.get(key)).toBe(1);
  });

  it.each(['', '.', '..', '\ud800'])('refuses the key %j before it becomes another path', async (key) => {
    await stockroom.put('kept', 1);
    await expect(stockroom.delete(key)).rejects.toMatchObject({ status: 400, code: 'invalid_key' });
    await expect(stockroom.components.get(key, 'x')).rejects.toMatchObject({ code: 'invalid_key' });
    expect(await stockroom.has('kept')).toBe(true);
  });

  it('knows a missing item', async () => {
    expect(await stockroom.get('nothing')).toBeUndefined();
    expect(await stockroom.read('nothing')).toBeUndefined();
    expect(await stockroom.head('nothing')).toBeUndefined();
    expect(await stockroom.has('nothing')).toBe(false);
    expect(await stockroom.metadata('nothing')).toBeUndefined();
    expect(await stockroom.touch('nothing')).toBeUndefined();
    expect(await stockroom.delete('nothing')).toBe(false);
  });

  it('answers what a write made', async () => {
    const first = await stockroom.put('k', 1, { ttl: 60 });
    expect(first).toMatchObject({ created: true, metadata: { key: 'k', kind: 'entry', ttlSeconds: 60, sizeBytes: 1 } });
    const second = await stockroom.put('k', 22);
    expect(second).toMatchObject({ created: false, metadata: { ttlSeconds: 0, ttlRemainingSeconds: null } });
    expect(await stockroom.metadata('k')).toMatchObject({ etag: second.metadata.etag, accessCount: 2 });
  });

  it('tells by its headers what an item is', async () => {
    const { metadata } = await stockroom.put('k', 1, { ttl: 60 });
    const item = await stockroom.read<number>('k', { noCache: true });
    expect(item).toMatchObject({ modified: true, value: 1, etag: metadata.etag, stale: false });
    expect(Math.abs(item!.lastModified.getTime() - Date.parse(metadata.updatedAt))).toBeLessThan(1000);
    const left = item!.expires!.getTime() - Date.parse(metadata.updatedAt);
    expect(Math.abs(left - 60_000)).toBeLessThan(1000);
    const { value: _, modified: __, ...info } = item!;
    expect(await stockroom.head('k')).toEqual(info);
  });

  it('reads again only what has changed', async () => {
    const { metadata } = await stockroom.put('k', 1);
    const same = await stockroom.read('k', { ifNoneMatch: metadata.etag });
    expect(same).toMatchObject({ modified: false, etag: metadata.etag });
    expect(same).not.toHaveProperty('value');
    await stockroom.put('k', 2);
    expect(await stockroom.read('k', { ifNoneMatch: metadata.etag })).toMatchObject({ modified: true, value: 2 });
  });

  it('writes under a condition', async () => {
    const { metadata } = await stockroom.put('k', 1, { ifNoneMatch: '*' });
    await expect(stockroom.put('k', 2, { ifNoneMatch: '*' })).rejects.toMatchObject({ status: 412, code: 'precondition_failed' });
    await stockroom.put('k', 3, { ifMatch: metadata.etag });
    await expect(stockroom.put('k', 4, { ifMatch: metadata.etag })).rejects.toMatchObject({ code: 'precondition_failed' });
    await expect(stockroom.delete('k', { ifMatch: metadata.etag })).rejects.toMatchObject({ code: 'precondition_failed' });
    expect(await stockroom.get('k')).toBe(3);
  });

  it('lets an item expire, and live on when touched', async () => {
    await stockroom.put('short', 1, { ttl: 1 });
    await stockroom.put('touched', 1, { ttl: 2 });
    expect(await stockroom.touch('touched', { ttl: 60 })).toMatchObject({ ttlSeconds: 60 });
    expect(await stockroom.touch('touched')).toMatchObject({ ttlSeconds: 60 });
    await expect.poll(() => stockroom.has('short'), { timeout: 10_000 }).toBe(false);
    expect(await stockroom.has('touched')).toBe(true);
  });

  it('refuses what JSON would change, before it is sent', async () => {
    for (const value of [undefined, Number.NaN, [undefined], { f() {} }, new Map(), { s: new Set() }, Symbol('s'), 1n]) {
      await expect(stockroom.put('k', value)).rejects.toThrow(TypeError);
      await expect(stockroom.mset({ fine: 1, k: value })).rejects.toThrow(TypeError);
    }
    expect(await collect(stockroom.keys())).toEqual([]);
  });
});

describe('batches', () => {
  it('stores, gets and deletes many of any kind', async () => {
    const entries = new Map<string, unknown>([
      ['b', 1],
      ['a', null],
      ['component:react:button', { sourceCode: 's' }],
      ['block:react:login', { files: [] }],
    ]);
    expect(await stockroom.mset(entries, { ttl: 60 })).toBe(4);
    expect((await stockroom.metadata('a'))?.ttlSeconds).toBe(60);
    expect(await stockroom.mget([...entries.keys(), 'nothing', 'toString'])).toEqual(entries);
    expect(await stockroom.mdelete(new Set(['a', 'b', 'nothing']))).toBe(2);
    expect(await collect(stockroom.keys())).toEqual(['block:react:login', 'component:react:button']);
  });

  it('names every bad entry and stores none', async () => {
    const entries = { fine: 1, 'component:react:a': { sourceCode: 1 }, 'block:react:b': { file: 1 } };
    const error = await stockroom.mset(entries).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(StockroomError);
    const { errors, requestId, message } = error as StockroomError;
    expect(errors.map((e) => e.key)).toEqual(expect.arrayContaining(['component:react:a', 'block:react:b']));
    expect(errors.find((e) => e.key === 'component:react:a')).toMatchObject({ code: 'wrong_type', pointer: expect.stringContaining('sourceCode') });
    expect(requestId).toMatch(/^[A-Za-z0-9._-]+$/);
    expect(message).toContain((error as StockroomError).code);
    expect(await stockroom.has('fine')).toBe(false);
  });
});

describe('transactions', () => {
  it('do everything, and answer for each operation', async () => {
    const { metadata } = await stockroom.put('a', 1);
    await stockroom.put('b', 1);
    const results = await stockroom.transaction([
      { check: { key: 'a', etag: metadata.etag } },
      { check: { key: 'new', etag: null } },
      { set: { key: 'new', value: { n: [1] }, ttl: 60 } },
      { delete: { key: 'b' } },
      { touch: { key: 'a', ttl: 60 } },
    ]);
    expect(results).toMatchObject([
      { key: 'a', etag: metadata.etag },
      { key: 'new', etag: results[2]!.etag },
      { key: 'new', created: true, metadata: { ttlSeconds: 60 } },
      { key: 'b', etag: null, deleted: true },
      { key: 'a', metadata: { ttlSeconds: 60 } },
    ]);
    expect(await stockroom.mget(['a', 'b', 'new'])).toEqual(new Map<string, unknown>([['a', 1], ['new', { n: [1] }]]));
  });

  it('do nothing where a check fails, and name it', async () => {
    await stockroom.put('a', 1);
    const failed = stockroom.transaction([{ set: { key: 'b', value: 1 } }, { check: { key: 'a', etag: null } }]);
    await expect(failed).rejects.toMatchObject({
      status: 409,
      code: 'check_failed',
      errors: [{ key: 'a', pointer: '/operations/1/check', code: 'check_failed' }],
    });
    await expect(stockroom.transaction([{ touch: { key: 'c' } }])).rejects.toMatchObject({ status: 404, code: 'not_found' });
    expect(await stockroom.has('b')).toBe(false);
  });

  it('count exactly', async () => {
    await stockroom.put('n', 0);
    const increment = async (): Promise<void> => {
      const { value, etag } = (await stockroom.read<number>('n'))!;
      try {
        await stockroom.transaction([{ check: { key: 'n', etag } }, { set: { key: 'n', value: value! + 1 } }]);
      } catch (error) {
        if (!(error instanceof StockroomError) || error.code !== 'check_failed') throw error;
        await increment();
      }
    };
    await Promise.all(Array.from({ length: 8 }, increment));
    expect(await stockroom.get('n')).toBe(8);
  });
});

describe('lists', () => {
  it('walks all pages', async () => {
    const names = Array.from({ length: 25 }, (_, i) => `n${String(i).padStart(2, '0')}`);
    await stockroom.mset(Object.fromEntries(names.map((name) => [`component:react:${name}`, { sourceCode: name }])));
    await stockroom.mset(Object.fromEntries(names.map((name) => [`block:react:${name}`, { files: [], category: name.slice(0, 2) }])));
    expect(await collect(stockroom.keys({ pattern: 'component:*', pageSize: 10 }))).toEqual(names.map((n) => `component:react:${n}`));
    const components = await collect(stockroom.components.list('react', { pageSize: 10 }));
    expect(components.map((c) => c.name)).toEqual(names);
    expect(components[0]).not.toHaveProperty('sourceCode');
    const blocks = await collect(stockroom.blocks.list('react', { category: 'n1', pageSize: 3 }));
    expect(blocks.map((b) => b.name)).toEqual(names.filter((n) => n.startsWith('n1')));
    expect(await collect(stockroom.components.list('vue'))).toEqual([]);
  });

  it('walks what a search finds, the best first', async () => {
    const names = Array.from({ length: 12 }, (_, i) => `date-picker-${i}`);
    await stockroom.mset(Object.fromEntries(names.map((name) => [`component:react:${name}`, { sourceCode: '' }])));
    await stockroom.mset({
      'component:vue:date-picker': { sourceCode: '' },
      'block:react:picker': { files: [], description: 'the date', category: 'forms' },
      'component:react:other': { sourceCode: '' },
    });
    const found = await collect(stockroom.search('date picker', { pageSize: 5 }));
    expect(found.map((result) => result.name).sort()).toEqual([...names, 'date-picker', 'picker'].sort());
    expect(found[0]).toMatchObject({ key: 'component:vue:date-picker', kind: 'component', framework: 'vue', snippet: expect.any(String) });
    expect((await collect(stockroom.search('date picker', { framework: 'vue' }))).map((r) => r.framework)).toEqual(['vue']);
    expect((await collect(stockroom.search('picker', { kind: 'block' }))).map((r) => r.name)).toEqual(['picker']);
    expect((await collect(stockroom.search('picker', { category: 'forms' }))).map((r) => r.name)).toEqual(['picker']);
    expect(await collect(stockroom.search('nothing'))).toEqual([]);
    await expect(collect(stockroom.search(''))).rejects.toMatchObject({ status: 400, code: 'invalid_parameter' });
  });

  it('asks for no page that nobody wants', async () => {
    let requests = 0;
    const counting = connect({
      fetch: (...args) => {
        requests++;
        return fetch(...args);
      },
    });
    await stockroom.mset({ a: 1, b: 2, c: 3 });
    for await (const key of counting.keys({ pageSize: 1 })) if (key === 'b') break;
    expect(requests).toBe(2);
  });
});

describe('components, blocks and the registry', () => {
  const component: Schemas['Component'] = {
    sourceCode: 'export {}',
    metadata: { a: [1] },
    dependencies: [],
    fileSize: 100,
    lastModified: '2026-11-18T08:00:00+01:00',
  };
  const block: Schemas['Block'] = { files: [{ path: 'p', content: 'c' }], structure: null, type: 'simple', category: 'x' };

  it('keeps components', async () => {
    const { components } = stockroom;
    expect(await components.get('react', 'button')).toBeUndefined();
    expect(await components.put('react', 'button', component, { ttl: 60 })).toMatchObject({ created: true, metadata: { ttlSeconds: 60 } });
    expect(await components.get('react', 'button')).toEqual(component);
    expect(await stockroom.get('component:react:button')).toEqual(component);
    expect(await components.has('react', 'button')).toBe(true);
    await expect(components.put('react', 'button', component, { ifNoneMatch: '*' })).rejects.toMatchObject({ status: 412 });
    const { etag } = (await components.read('react', 'button'))!;
    expect(await components.read('react', 'button', { ifNoneMatch: etag })).toMatchObject({ modified: false });
    expect(await components.delete('react', 'button', { ifMatch: etag })).toBe(true);
    expect(await components.delete('react', 'button')).toBe(false);
    expect(await components.has('react', 'button')).toBe(false);
  });

  it('keeps blocks', async () => {
    const { blocks } = stockroom;
    expect(await blocks.put('react', 'login', block)).toMatchObject({ created: true, metadata: { kind: 'block' } });
    expect(await blocks.get('react', 'login')).toEqual(block);
    expect(await blocks.has('react', 'login')).toBe(true);
    const { etag } = (await blocks.read('react', 'login'))!;
    await expect(blocks.put('react', 'login', block, { ifMatch: '"other"' })).rejects.toMatchObject({ status: 412 });
    expect(await blocks.delete('react', 'login', { ifMatch: etag })).toBe(true);
    expect(await blocks.has('react', 'login')).toBe(false);
  });

  it('publishes registry items', async () => {
    const file = { path: 'button.tsx', type: 'registry:ui' } as const;
    const item = { name: 'button', type: 'registry:ui', files: [{ ...file, content: 'x' }] } satisfies Schemas['RegistryItem'];
    expect(await stockroom.registry.put('react', item)).toMatchObject({ created: true, metadata: { kind: 'component' } });
    expect(await stockroom.registry.get('react', 'button')).toEqual(item);
    expect((await stockroom.components.get('react', 'button'))?.sourceCode).toBe('x');
    expect(await stockroom.registry.get('react', 'nothing')).toBeUndefined();
    const shown = { ...item, files: [file] };
    const all = await stockroom.registry.catalogue('react', { q: 'button', type: 'registry:ui', limit: 1 });
    expect(all).toMatchObject({ items: [shown], pagination: { total: 1, offset: 0, limit: 1, hasMore: false } });
    expect((await stockroom.registry.catalogue('react', { q: 'button', offset: 1 })).items).toEqual([]);
    await expect(stockroom.registry.put('react', { ...item, type: 'registry:block' })).rejects.toMatchObject({ status: 409, code: 'conflict' });
  });

  it('names the place of an error', async () => {
    const bad = { sourceCode: 's', colour: 'red' } as Schemas['Component'];
    await expect(stockroom.components.put('react', 'x', bad)).rejects.toMatchObject({
      name: 'StockroomError',
      status: 422,
      code: 'unknown_field',
      errors: [{ pointer: '/colour', code: 'unknown_field' }],
    });
  });
});

describe('the service', () => {
  it('tells what it holds', async () => {
    await stockroom.mset({ 'component:react:a': { sourceCode: '12345' }, 'block:vue:b': { files: [] }, c: 1 });
    expect(await stockroom.frameworks()).toEqual([
      { framework: 'react', components: 1, blocks: 0, sizeBytes: 5 },
      { framework: 'vue', components: 0, blocks: 1, sizeBytes: 2 },
    ]);
    expect((await stockroom.stats()).items).toEqual({ total: 3, components: 1, blocks: 1, entries: 1 });
    expect(await stockroom.maintenance({ evictItems: 1 })).toMatchObject({ evicted: 1, items: 2 });
    expect(await stockroom.maintenance()).toMatchObject({ evicted: 0, items: 2 });
  });

  it('clears a part, or everything', async () => {
    await stockroom.mset({ 'component:react:a': { sourceCode: 's' }, 'block:vue:b': { files: [] }, c: 1 });
    expect(await stockroom.clear({ pattern: 'component:*' })).toEqual({ components: 1, blocks: 0, entries: 0 });
    expect(await stockroom.clear()).toEqual({ components: 0, blocks: 1, entries: 1 });
  });

  it('reaches every operation of the contract', async () => {
    const { data, response } = await stockroom.api.GET('/readyz');
    expect(response.status).toBe(200);
    expect(data).toEqual({ status: 'ready' });
  });

  it('wants an API key of the right scope', async () => {
    await expect(new Stockroom({ baseUrl, apiKey: '' }).get('k')).rejects.toMatchObject({ status: 401, code: 'unauthorized' });
    const stranger = connect({ apiKey: `${apiKey}x` });
    await expect(stranger.get('k')).rejects.toMatchObject({ status: 401, code: 'unauthorized' });
    await expect(stranger.has('k')).rejects.toMatchObject({ status: 401, code: 'unauthorized' });
    await expect(connect({ apiKey: readKey }).put('k', 1)).rejects.toMatchObject({ status: 403, code: 'forbidden' });
    await expect(connect({ apiKey: writeKey }).clear()).rejects.toMatchObject({ status: 403, code: 'forbidden' });
    expect(await new Stockroom().has('k')).toBe(false);
  });

  it('passes on the id of a request', async () => {
    const bad = stockroom.get('component:bad', { requestId: 'my-id.7' });
    await expect(bad).rejects.toMatchObject({ status: 400, code: 'invalid_key', requestId: 'my-id.7' });
  });
});
