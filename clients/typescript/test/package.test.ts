import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connect } from './server.js';

// A program of somebody else: it has the package as npm packs it, and what the package says that it needs.

const run = promisify(execFile);
const root = fileURLToPath(new URL('..', import.meta.url));
let consumer = '';
let packed: string[] = [];

beforeAll(async () => {
  expect(existsSync(join(root, 'dist')), 'npm run build comes first').toBe(true);
  consumer = await mkdtemp(join(tmpdir(), 'stockroom-client-'));
  const { stdout } = await run('npm', ['pack', '--json', '--pack-destination', consumer], { cwd: root });
  const [pack] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }];
  packed = pack.files.map((file) => file.path);
  const folder = join(consumer, 'node_modules/@stockroom/client');
  await mkdir(folder, { recursive: true });
  await run('tar', ['-xzf', join(consumer, pack.filename), '--strip-components=1', '-C', folder]);
  const manifest = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as { dependencies: object };
  for (const dependency of Object.keys(manifest.dependencies)) await install(dependency);
  await writeFile(join(consumer, 'package.json'), '{}');
}, 60_000);

afterAll(async () => {
  await rm(consumer, { recursive: true, force: true });
});

async function install(name: string): Promise<void> {
  const path = join(consumer, 'node_modules', name);
  await mkdir(dirname(path), { recursive: true });
  if (!existsSync(path)) await symlink(join(root, 'node_modules', name), path);
}

/** Runs the code as a plain ES module, and returns what it prints. */
async function execute(code: string): Promise<string> {
  const file = join(consumer, 'program.mjs');
  await writeFile(file, code);
  const { stdout } = await run(process.execPath, [file], { env: { ...process.env, NO_COLOR: '1' } });
  return stdout;
}

/** Returns what a strict TypeScript has to say on the programs; nothing where all is well. */
async function check(...programs: string[]): Promise<string> {
  const files = programs.map((_, i) => `program${i}.mts`);
  for (const [i, code] of programs.entries()) await writeFile(join(consumer, files[i]!), code);
  const options = { module: 'nodenext', target: 'es2022', strict: true, exactOptionalPropertyTypes: true, noEmit: true, types: ['node'] };
  await writeFile(join(consumer, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, files }));
  await install('@types/node');
  return run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', consumer]).then(
    () => '',
    (error: { stdout: string }) => error.stdout,
  );
}

describe('the package', () => {
  it('has what its users need, and nothing else', async () => {
    const modules = ['batches', 'client', 'errors', 'index', 'json', 'keyv', 'openapi.gen', 'storage', 'transport'];
    const wanted = modules.flatMap((module) => [`dist/${module}.d.ts`, `dist/${module}.js`]);
    expect(packed.sort()).toEqual([...wanted, 'LICENSE', 'README.md', 'package.json'].sort());
    expect(await readFile(join(root, 'LICENSE'), 'utf8')).toBe(await readFile(join(root, '../../LICENSE'), 'utf8'));
  });

  it('can be imported by a plain script, and without Keyv', async () => {
    const code = `
      import * as all from '@stockroom/client';
      import * as storage from '@stockroom/client/storage';
      import { KeyvStockroom } from '@stockroom/client/keyv';
      console.log(Object.keys(all), storage.StorageProvider === all.StorageProvider, typeof KeyvStockroom);
    `;
    expect(await execute(code)).toBe("[ 'Stockroom', 'StockroomError', 'StorageProvider', 'defaultBaseUrl' ] true function\n");
  });

  it('has types that resolve, and that are right', async () => {
    const program = `
      import { Stockroom, type Schemas, StockroomError, StorageProvider } from '@stockroom/client';
      import type { Component } from '@stockroom/client/storage';
      const stockroom = new Stockroom({ baseUrl: new URL('http://localhost:1'), apiKey: 'k', timeoutMs: 1, maxRetries: 0 });
      export const source: Promise<string | undefined> = stockroom.components.get('react', 'x').then((c) => c?.sourceCode);
      export const keys: AsyncIterable<string> = stockroom.keys({ pattern: '*' });
      export const theme: Promise<{ accent: string } | undefined> = stockroom.get<{ accent: string }>('theme');
      export const metadata: Promise<Schemas['Metadata'] | undefined> = stockroom.metadata('k', { signal: AbortSignal.timeout(1) });
      export const status = (error: unknown): number => (error instanceof StockroomError ? error.status : 0);
      export const old: Promise<Component | undefined> = new StorageProvider(stockroom, { defaultTTL: 1, maxSize: 1, debug: true }).getComponent('a', 'b');
      export const raw = stockroom.api.GET('/v1/stats').then(({ data }) => data?.items.total);
    `;
    expect(await check(program)).toBe('');
    expect(await check(`${program}; stockroom.components.put('react', 'x', { source: 1 });`)).toContain('TS2353');
  }, 60_000);
});

describe('the README', () => {
  const examples = async () => {
    const text = await readFile(join(root, 'README.md'), 'utf8');
    return [...text.matchAll(/```js\n(?<code>.*?)```\n(?:\n|prints\n)*```text\n(?<output>.*?)```/gs)].map((match) => match.groups!);
  };

  it('says what its examples do', async () => {
    await install('keyv');
    await connect().clear();
    const all = await examples();
    expect(all).toHaveLength(3);
    for (const { code, output } of all) expect(await execute(code!)).toBe(output);
  }, 60_000);

  it('has examples that are right in TypeScript too', async () => {
    await install('keyv');
    expect(await check(...(await examples()).map(({ code }) => code!))).toBe('');
  }, 60_000);
});
