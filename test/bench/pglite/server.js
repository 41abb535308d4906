// A small HTTP server over PGlite that does with each request what the embedded
// provider did which Stockroom replaces: a SELECT and then an UPDATE of the access
// columns for a get, an upsert for a set, a loop in one transaction for an mset.
// Usage: node server.js PORT FOLDER
import { PGlite } from "@electric-sql/pglite";
import { createServer } from "node:http";

const [port, folder] = process.argv.slice(2);
const db = await PGlite.create(`file://${folder}`);
await db.exec(`CREATE TABLE IF NOT EXISTS components (
	framework text NOT NULL,
	name text NOT NULL,
	source_code text NOT NULL,
	metadata jsonb,
	dependencies jsonb,
	registry_dependencies jsonb,
	size_bytes integer NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	accessed_at timestamptz NOT NULL DEFAULT now(),
	access_count integer NOT NULL DEFAULT 1,
	PRIMARY KEY (framework, name)
)`);

const select = `SELECT source_code, metadata, dependencies, registry_dependencies
	FROM components WHERE framework = $1 AND name = $2`;
const access = `UPDATE components SET accessed_at = now(), access_count = access_count + 1
	WHERE framework = $1 AND name = $2`;
const upsert = `INSERT INTO components
	(framework, name, source_code, metadata, dependencies, registry_dependencies, size_bytes)
	VALUES ($1, $2, $3, $4, $5, $6, $7)
	ON CONFLICT (framework, name) DO UPDATE SET source_code = excluded.source_code, metadata = excluded.metadata,
		dependencies = excluded.dependencies, registry_dependencies = excluded.registry_dependencies,
		size_bytes = excluded.size_bytes, accessed_at = now(), access_count = components.access_count + 1`;

const identity = (key) => key.split(":").slice(1);

const args = (key, value) => [
	...identity(key),
	value.sourceCode,
	value.metadata ?? null,
	value.dependencies ?? null,
	value.registryDependencies ?? null,
	value.sourceCode.length,
];

async function get(key) {
	const { rows } = await db.query(select, identity(key));
	if (rows.length === 0) return null;
	await db.query(access, identity(key));
	const [row] = rows;
	return {
		sourceCode: row.source_code,
		...(row.metadata && { metadata: row.metadata }),
		...(row.dependencies && { dependencies: row.dependencies }),
		...(row.registry_dependencies && { registryDependencies: row.registry_dependencies }),
	};
}

async function mset(entries) {
	await db.transaction(async (tx) => {
		for (const [key, value] of Object.entries(entries)) {
			await tx.query(upsert, args(key, value));
		}
	});
	return { stored: Object.keys(entries).length };
}

async function body(request) {
	const chunks = [];
	for await (const chunk of request) chunks.push(chunk);
	return JSON.parse(Buffer.concat(chunks).toString("utf8"));
}

async function answer(request) {
	if (request.url === "/livez") return { status: "ok" };
	if (request.method === "POST" && request.url === "/v1/mset") return mset((await body(request)).entries);
	const key = decodeURIComponent(request.url.replace("/v1/items/", ""));
	if (request.method === "PUT") {
		await db.query(upsert, args(key, await body(request)));
		return { key };
	}
	return get(key);
}

const server = createServer(async (request, response) => {
	let status = 200;
	let value;
	try {
		value = await answer(request);
		if (value === null) status = 404;
	} catch (error) {
		status = 500;
		value = { message: String(error) };
	}
	const text = JSON.stringify(value);
	response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) });
	response.end(text);
});
server.keepAliveTimeout = 0;
server.listen(Number(port), "127.0.0.1");

process.on("SIGTERM", () => process.exit(0));
