// Parses the AsyncAPI document that its argument names; prints what the parser has against it, and exits 1 then.
// Run where node_modules holds @asyncapi/parser (package.json).
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { Parser } = createRequire(join(process.cwd(), "here.js"))("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
const faults = diagnostics.filter(({ severity }) => severity < 2); // errors and warnings, not hints
for (const { code, message, path } of faults) {
  console.error(`${path.join(".")}: ${message} (${code})`);
}
if (faults.length || !document) process.exit(1);
console.log(`${document.allChannels().length} channels, ${document.allMessages().length} messages`);
