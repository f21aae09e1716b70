import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";
import { writesDigests } from "./sources.ts";

// Where `npm run dev` finds a server: `gesso serve`, or the address in GESSO_SERVER.
const server = process.env.GESSO_SERVER ?? "http://127.0.0.1:7860";

export default defineConfig(({ mode }) => ({
  plugins: [svelte(), writesDigests(import.meta.dirname)],
  base: "./", // the page also works below a path, behind a proxy
  // Tests load Svelte's code for browsers, which resolves differently.
  resolve: mode === "test" ? { conditions: ["browser"] } : {},
  build: {
    outDir: "../src/gesso/server/page/assets",
    emptyOutDir: true,
    target: "es2022",
    sourcemap: false,
    assetsInlineLimit: 0, // data: addresses would need a wider content security policy
    modulePreload: { polyfill: false },
    rolldownOptions: {
      output: {
        entryFileNames: "static/[name]-[hash].js",
        chunkFileNames: "static/[name]-[hash].js",
        assetFileNames: "static/[name]-[hash][extname]",
      },
    },
  },
  server: { proxy: { "/v1": { target: server }, "/openapi.json": { target: server } } },
  test: { environment: "happy-dom", include: ["src/**/*.test.ts"], testTimeout: 20_000 },
}));
