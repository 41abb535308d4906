import { beforeEach, describe, expect, it } from 'vitest';
import { Stockroom, StorageProvider } from '../src/index.js';
import type { Block, Component } from '../src/storage.js';
import { apiKey, baseUrl, connect, readKey } from './server.js';

const stockroom = connect();
const store = new StorageProvider(stockroom);

beforeEach(async () => {
  await stockroom.clear();
});

const component: Component = {
  framework: 'react',
  name: 'button',
  sourceCode: 'export const Button = () => <button>ü</button>;\n',
  demoCode: '<Button />',
  metadata: { tags: ['a'], nested: { n: 1.5, none: null } },
  dependencies: ['clsx'],
  registryDependencies: [],
  githubSha: '4f2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a392',
  fileSize: 2000,
  lastModified: new Date('2026-11-18T08:00:00.123Z'),
};

const block: Block = {
  framework: 'react',
  name: 'login-01',
  category: 'authentication',
  type: 'complex',
  description: 'A login form',
  files: { 'page.tsx': { content: 'export {}' } },
  structure: null,
  dependencies: [],
  componentsUsed: ['button'],
  totalSize: 3000,
  githubSha: '4f2c1d9e8b7a6f5e4d3c2b1a09f8e7d6c5b4a392',
};

describe('values', () => {
  // What programs put under such keys in the embedded store, whatever its columns made of that.
  const values: [string, unknown][] = [
    ['metadata:github_rate_limit', { remaining: 4999, reset: '2026-11-21T10:00:00Z' }],
    ['a', null],
    ['b', ''],
    ['c', [1, 'two', { three: false }]],
    ['~', 'a tilde'],
    ['component:react:button', component],
    ['component:react:bare', { sourceCode: '' }],
    ['component:react:dated', { sourceCode: 's', lastModified: '2026-11-18T08:00:00+01:00' }],
    ['component:react:iso', { sourceCode: 's', lastModified: '2026-11-18T08:00:00.123Z' }],
    ['component:react:source', 'export {}\n'],
    ['component:react:empty', ''],
    ['block:react:login-01', block],
    ['block:react:login-01:components-true', { files: 'anything', n: null }],
    ['component:react:button:demo', 'text'],
    ['component', 1],
    ['component:', 2],
    ['block:react', 3],
    ['component::x', 4],
    ['~component:react:x', 5],
    ['~~block', 6],
    ['component-demo:react:button', 'text'],
  ];

  it.each(values)('come back from %s', async (key, value) => {
    await store.set(key, value, 60);
    expect(await store.get(key)).toStrictEqual(value);
    expect(await store.has(key)).toBe(true);
    expect((await store.getMetadata(key))?.key).toBe(key);
    expect(await store.keys()).toEqual([key]);
    expect(await store.mget([key])).toStrictEqual(new Map([[key, value]]));
    expect(await store.size()).toBe(1);
    expect(await store.delete(key)).toBe(true);
    expect(await store.has(key)).toBe(false);
  });

  it('come back from a batch, in the order that was asked', async () => {
    const entries = new Map(values);
    await store.mset(entries);
    expect(await store.size()).toBe(values.length);
    const keys = values.map(([key]) => key).reverse();
    const result = await store.mget([...keys, 'nothing', 'block:x:nothing', 'component:no']);
    expect([...result.keys()]).toEqual(keys);
    expect(result).toStrictEqual(entries);
    expect((await store.keys()).sort()).toEqual([...entries.keys()].sort());
  });

  it('that the server would have to drop are refused', async () => {
    await expect(store.set('component:react:x', { sourceCode: 's', colour: 1 })).rejects.toMatchObject({ code: 'unknown_field' });
    await expect(store.set('component:react:x', { ...component })).rejects.toMatchObject({ code: 'key_mismatch' });
    await expect(store.mset(new Map<string, unknown>([['a', 1], ['block:react:x', {}]]))).rejects.toMatchObject({ code: 'missing_field' });
    await expect(store.set('a', undefined)).rejects.toThrow(TypeError);
    expect(await store.size()).toBe(0);
  });
});

describe('what is missing', () => {
  it('is undefined', async () => {
    for (const key of ['nothing', 'component:react:x', 'block:react:x', 'block:react:x:y']) {
      expect(await store.get(key)).toBeUndefined();
      expect(await store.getMetadata(key)).toBeUndefined();
      expect(await store.has(key)).toBe(false);
      expect(await store.delete(key)).toBe(false);
    }
    expect(await store.getComponent('react', 'x')).toBeUndefined();
    expect(await store.getBlock('react', 'x')).toBeUndefined();
    expect(await store.listComponents('react')).toEqual([]);
    expect(await store.listBlocks('react')).toEqual([]);
    expect(await store.mget([])).toEqual(new Map());
    expect(await store.keys('x*')).toEqual([]);
    await store.mset(new Map());
    expect(await store.size()).toBe(0);
  });
});

describe('components and blocks', () => {
  it('are got as they were set', async () => {
    await store.setComponent(component);
    await store.setBlock(block);
    expect(await store.getComponent('react', 'button')).toStrictEqual(component);
    expect(await store.get('component:react:button')).toStrictEqual(component);
    expect(await store.getBlock('react', 'login-01')).toStrictEqual(block);
    // Other clients see them as what they are.
    expect((await stockroom.components.get('react', 'button'))?.sourceCode).toBe(component.sourceCode);
    expect((await stockroom.frameworks())[0]).toMatchObject({ components: 1, blocks: 1, sizeBytes: 5000 });
  });

  it('have their names, whoever put them', async () => {
    await stockroom.components.put('react', 'x', { sourceCode: 's', lastModified: '2026-11-18T09:00:00+01:00' });
    await stockroom.blocks.put('react', 'y', { files: [] });
    await store.set('component:react:z', 'source');
    const x = await store.getComponent('react', 'x');
    expect(x).toStrictEqual({ framework: 'react', name: 'x', sourceCode: 's', lastModified: new Date('2026-11-18T08:00:00Z') });
    expect(await store.getBlock('react', 'y')).toStrictEqual({ framework: 'react', name: 'y', files: [] });
    expect(await store.getComponent('react', 'z')).toStrictEqual({ framework: 'react', name: 'z', sourceCode: 'source' });
  });

  it('may have null for what they lack, as the embedded store did', async () => {
    await store.setComponent({ ...component, demoCode: null, lastModified: undefined } as unknown as Component);
    const { demoCode: _, lastModified: __, ...rest } = component;
    expect(await store.getComponent('react', 'button')).toStrictEqual(rest);
    await store.setBlock({ ...block, category: null } as unknown as Block);
    expect(await store.getBlock('react', 'login-01')).toEqual({ ...block, category: undefined });
  });

  it('are listed by framework and category', async () => {
    await store.setComponent({ framework: 'react', name: 'card', sourceCode: 's' });
    await store.setComponent(component);
    await store.setComponent({ ...component, framework: 'vue' });
    expect(await store.listComponents('react')).toStrictEqual([
      {
        framework: 'react',
        name: 'button',
        fileSize: 2000,
        lastModified: component.lastModified,
        dependencies: ['clsx'],
        registryDependencies: [],
      },
      { framework: 'react', name: 'card' },
    ]);
    await store.setBlock(block);
    await store.setBlock({ framework: 'react', name: 'a', files: [] });
    const listed = {
      framework: 'react',
      name: 'login-01',
      category: 'authentication',
      type: 'complex',
      description: 'A login form',
      totalSize: 3000,
    };
    expect(await store.listBlocks('react')).toStrictEqual([{ framework: 'react', name: 'a' }, listed]);
    expect(await store.listBlocks('react', 'authentication')).toStrictEqual([listed]);
    expect(await store.listBlocks('react', 'other')).toStrictEqual([]);
  });
});

describe('the store', () => {
  it('finds keys by a glob', async () => {
    const all = ['block:react:a', 'block:react:a:b', 'component:react:b', 'component:react:b:c', 'list:a', 'list:b', '~block'];
    await store.mset(new Map(all.map((key) => [key, key.startsWith('component:react:b') ? 's' : key === 'block:react:a' ? { files: [] } : key])));
    expect((await store.keys('')).sort()).toEqual(all);
    expect((await store.keys('*')).sort()).toEqual(all);
    expect((await store.keys('block:*')).sort()).toEqual(['block:react:a', 'block:react:a:b']);
    expect((await store.keys('*:b')).sort()).toEqual(['block:react:a:b', 'component:react:b', 'list:b']);
    expect(await store.keys('list:?')).toEqual(['list:a', 'list:b']);
    expect(await store.keys('~*')).toEqual(['~block']);
  });

  it('takes times to live in seconds, and its own default', async () => {
    const ttl = async (provider: StorageProvider) => (await provider.getMetadata('k'))?.ttl;
    await store.set('k', 1);
    expect(await ttl(store)).toBeUndefined();
    await store.set('k', 1, 59.2);
    expect(await ttl(store)).toBe(60);
    const limited = new StorageProvider(stockroom, { defaultTTL: 100 });
    await limited.set('k', 1);
    expect(await ttl(limited)).toBe(100);
    await limited.mset(new Map([['k', 1]]));
    expect(await ttl(limited)).toBe(100);
    for (const none of [0, -1]) {
      await limited.set('k', 1, none);
      expect(await ttl(limited)).toBeUndefined();
    }
    await limited.setComponent(component);
    expect((await limited.getMetadata('component:react:button'))?.ttl).toBe(100);
    await store.set('k', 1, 1);
    await expect.poll(() => store.get('k'), { timeout: 5000 }).toBeUndefined();
  });

  it('tells what it knows of an item', async () => {
    const before = Date.now();
    await store.set('k', 'äb', 60);
    const metadata = (await store.getMetadata('k'))!;
    expect(metadata).toEqual({
      key: 'k',
      size: 5,
      ttl: 60,
      createdAt: expect.any(Date),
      updatedAt: metadata.createdAt,
      accessedAt: metadata.createdAt,
      accessCount: 1,
    });
    expect(Math.abs(metadata.createdAt.getTime() - before)).toBeLessThan(5000);
  });

  it('stores a batch wholly or not at all, and reads one of any size', async () => {
    const many = new Map(Array.from({ length: 1500 }, (_, i) => [`k${i}`, i]));
    await expect(store.mset(many)).rejects.toMatchObject({ status: 413, code: 'batch_too_large' });
    expect(await store.size()).toBe(0);
    const entries = [...many];
    await store.mset(new Map(entries.slice(0, 800)));
    await store.mset(new Map(entries.slice(800)));
    expect(await store.mget([...many.keys()])).toEqual(many);
    expect((await store.keys()).length).toBe(1500);
  });

  it('counts by an API key that may only read', async () => {
    await store.mset(new Map([['a', 1], ['b', 2]]));
    expect(await new StorageProvider({ baseUrl, apiKey: readKey }).size()).toBe(2);
  });

  it('clears everything', async () => {
    await store.setComponent(component);
    await store.set('k', 1);
    await store.clear();
    expect(await store.size()).toBe(0);
  });

  it('is made from a client, from its options, or from the environment', async () => {
    await store.set('k', 1);
    for (const argument of [stockroom, { baseUrl, apiKey }, undefined, null]) {
      expect(await new StorageProvider(argument).get('k')).toBe(1);
    }
    expect(new Stockroom()).toBeInstanceOf(Stockroom);
  });
});

describe('after dispose', () => {
  it('every call is rejected', async () => {
    const disposed = new StorageProvider(stockroom);
    await disposed.set('k', 1);
    const running = disposed.get('k');
    expect(disposed.isDisposed()).toBe(false);
    await disposed.dispose();
    await disposed.dispose();
    expect(disposed.isDisposed()).toBe(true);
    expect(await running).toBe(1);
    const calls: Record<string, () => Promise<unknown>> = {
      get: () => disposed.get('k'),
      set: () => disposed.set('k', 2),
      has: () => disposed.has('k'),
      delete: () => disposed.delete('k'),
      clear: () => disposed.clear(),
      mget: () => disposed.mget([]),
      mset: () => disposed.mset(new Map()),
      getMetadata: () => disposed.getMetadata('k'),
      keys: () => disposed.keys(),
      size: () => disposed.size(),
      getComponent: () => disposed.getComponent('react', 'x'),
      setComponent: () => disposed.setComponent(component),
      listComponents: () => disposed.listComponents('react'),
      getBlock: () => disposed.getBlock('react', 'x'),
      setBlock: () => disposed.setBlock(block),
      listBlocks: () => disposed.listBlocks('react'),
    };
    const methods = Object.getOwnPropertyNames(StorageProvider.prototype).filter((name) => !['constructor', 'dispose', 'isDisposed'].includes(name));
    expect(Object.keys(calls).sort()).toEqual(methods.sort());
    for (const call of Object.values(calls)) await expect(call()).rejects.toThrow('has been disposed');
    expect(await store.get('k')).toBe(1);
  });
});
