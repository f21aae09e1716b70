// Draws the six graphs with one of ComfyUI's clients from npm, as it is, against a server.
// node comfy_clients.mjs CLIENT ADDRESS FOLDER MODULES: as comfy_clients.py; MODULES is a folder node_modules.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [client, address, folder, modules] = process.argv.slice(2);
const require = createRequire(path.join(modules, "_"));
const load = async (name) => {
  const module = await import(pathToFileURL(require.resolve(name)).href);
  return { ...module.default, ...module };
};
const graphs = JSON.parse(fs.readFileSync(path.join(folder, "graphs.json")));
const keep = async (name, url) => {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  fs.writeFileSync(path.join(folder, `${name}.png`), Buffer.from(await answer.arrayBuffer()));
};

async function upload() {
  for (const file of ["edges.png", "hole.png"]) {
    const form = new FormData();
    form.append("image", new Blob([fs.readFileSync(path.join(folder, file))]), file);
    const answer = await fetch(`${address}/upload/image`, { method: "POST", body: form });
    if ((await answer.json()).name !== file) throw new Error(`${file} was renamed`);
  }
}

async function saintno() {
  const { ComfyApi, CallWrapper, PromptBuilder } = await load("@saintno/comfyui-sdk");
  const api = await new ComfyApi(address).init().waitForReady();
  for (const file of ["edges.png", "hole.png"]) {
    const kept = await api.uploadImage(fs.readFileSync(path.join(folder, file)), file);
    if (kept.info.filename !== file) throw new Error(JSON.stringify(kept));
  }
  if (!(await api.getCheckpoints()).includes("gesso-mini.safetensors")) throw new Error("no checkpoint");
  for (const [name, graph] of Object.entries(graphs)) {
    const prompt = new PromptBuilder(graph, [], ["images"]).setOutputNode("images", "9");
    let progress = 0;
    const result = await new CallWrapper(api, prompt)
      .onProgress(() => (progress += 1))
      .onFailed((error) => {
        throw error;
      })
      .run();
    if (!progress) throw new Error("no progress");
    await keep(name, api.getPathImage(result.images.images[0]));
  }
  api.destroy();
}

async function canvas() {
  const { Client } = await load("@stable-canvas/comfyui-client");
  const WebSocket = require("ws");
  await upload();
  const api = new Client({ api_host: new URL(address).host, clientId: "canvas", WebSocket, fetch });
  await api.connect();
  await api.getSystemStats();
  for (const [name, graph] of Object.entries(graphs)) {
    let progress = 0;
    const result = await api.enqueue(graph, { progress: () => (progress += 1) });
    if (!progress) throw new Error("no progress");
    await keep(name, result.images[0].data);
  }
  await api.close();
}

await { "@saintno/comfyui-sdk": saintno, "@stable-canvas/comfyui-client": canvas }[client]();
process.exit(0);
