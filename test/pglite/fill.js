// Makes a PGlite folder as a registry tool leaves it behind: COUNT components and a
// few blocks, some of which Stockroom does not take.
// Usage: node fill.js FOLDER COUNT
import { PGlite } from "@electric-sql/pglite";
import { readFile } from "node:fs/promises";

const [folder, count] = process.argv.slice(2);
const db = await PGlite.create(`file://${folder}`);
await db.exec(await readFile(new URL("schema.sql", import.meta.url), "utf8"));

const component = `INSERT INTO components (framework, name, source_code, demo_code, metadata, dependencies, registry_dependencies,
	github_sha, file_size, last_modified, cached_at, accessed_at, access_count, ttl_override)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`;
const cached = new Date("2026-01-02T03:04:05.678Z");
const accessed = new Date("2026-02-03T04:05:06.789Z");

await db.query(component, ["react", "button", "export const Button = 1; // “é” 𝄞", "<Button />", { title: "Button", order: 1.5 },
	["radix-ui", "a, b"], ["utils"], "0123456789abcdef0123456789abcdef01234567", 2048, new Date("2025-12-31T23:59:59Z"), cached, accessed, 42, null]);
await db.query(component, ["vue", "bare", "", null, null, null, null, null, null, null, cached, accessed, 1, null]);
await db.query(component, ["react", "fleeting", "x", null, null, [], null, "", null, null, new Date(), accessed, 3, 86400]);
await db.query(component, ["react", "expired", "x", null, null, null, null, null, null, null, cached, accessed, 3, 60]);
await db.query(component, ["react", "bad-sha", "x", null, null, null, null, "main", null, null, cached, accessed, 1, null]);
await db.query(component, ["react", "negative", "x", null, null, null, null, null, -1, null, cached, accessed, 1, null]);
await db.query(component, ["react", "a:colon", "x", null, null, null, null, null, null, null, cached, accessed, 1, null]);
await db.query(component, ["react", "list", "x", null, JSON.stringify(["no object"]), null, null, null, null, null, cached, accessed, 1, null]);
await db.query(
	`INSERT INTO components (framework, name, source_code, cached_at, accessed_at, access_count)
	SELECT 'many', 'c' || lpad(n::text, 6, '0'), repeat('source ' || n, 100), $1::timestamp, $2::timestamp + n * interval '1 second', n
	FROM generate_series(1, $3::integer) n`, [cached, accessed, Number(count)]);

const block = `INSERT INTO blocks (framework, name, category, type, description, files, structure, dependencies, components_used,
	total_size, file_count, github_sha, cached_at, accessed_at, access_count)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`;
await db.query(block, ["react", "dashboard", "dashboards", "complex", "A dashboard", { "page.tsx": { content: "page" }, "app.tsx": { content: "app!" } },
	{ root: ["page.tsx"] }, ["recharts"], ["button", "card"], 4096, 2, null, cached, accessed, 7]);
await db.query(block, ["react", "odd", null, "enormous", null, [], null, null, null, null, 0, null, cached, accessed, 1]);

await db.close();
