// What the page is built of, as one digest: it lies beside the built files, so that a test without Node sees whether they
// are older than their sources. tests/serving/test_page.py reads the same files in the same order.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Plugin } from "vite";

const FILES = [
  "index.html",
  "package-lock.json",
  "package.json",
  "svelte.config.js",
  "tsconfig.json",
  "vite.config.ts",
];

/** Path -> whether the built files depend on it. Tests and generated types leave no trace in them. */
const counts = (path: string): boolean => !/\.(test|d)\.ts$/.test(path);

function sources(root: string): string[] {
  const below = readdirSync(join(root, "src"), { recursive: true, withFileTypes: true })
    .filter((one) => one.isFile())
    .map((one) =>
      join(one.parentPath, one.name)
        .slice(root.length + 1)
        .replaceAll("\\", "/"),
    );
  return [...FILES, ...below.filter(counts)].sort((a, b) => (a < b ? -1 : 1));
}

const sha256 = (data: Uint8Array | string): string => createHash("sha256").update(data).digest("hex");

/** Writes `sources.sha256` beside what is built: the digest of the sources, then that of each built file. */
export function writesDigests(root: string): Plugin {
  return {
    name: "digests",
    apply: "build",
    writeBundle(options, bundle) {
      const folder = options.dir as string;
      const lines = sources(root).map((path) => `${sha256(readFileSync(join(root, path)))}  ${path}\n`);
      const built = Object.keys(bundle).sort((a, b) => (a < b ? -1 : 1));
      const digests = built.map((name) => `${sha256(readFileSync(join(folder, name)))}  ${name}\n`);
      writeFileSync(
        join(folder, "sources.sha256"),
        `${sha256(lines.join(""))}  sources\n${digests.join("")}`,
      );
    },
  };
}
