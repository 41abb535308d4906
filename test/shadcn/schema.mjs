// Says of each registry item on standard input, one a line, what the schema of the
// pinned CLI finds wrong with it: on standard output, one a line, a list of the places,
// as lists of members, or null.
import { createInterface } from "node:readline"
import { registryItemSchema } from "@shadcn/registry/schema"

for await (const line of createInterface({ input: process.stdin })) {
  const { success, error } = registryItemSchema.safeParse(JSON.parse(line))
  console.log(JSON.stringify(success ? null : error.issues.map(({ path }) => path)))
}
