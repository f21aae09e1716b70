// The only way to the server: gesso's public API, with types made of docs/openapi.json (`npm run types`).

import createClient, { type Middleware } from "openapi-fetch";
import { exactJson, readJson } from "./json";
import { askForKey, keyOf } from "./key.svelte";
import { Problem } from "./problem";
import type { components, paths } from "./schema";
import { uuid } from "./unique";

export { Problem } from "./problem";
export { listen, watchJob, type JobEvent } from "./events";
export { source, type Source } from "./pictures.svelte";

type Schemas = components["schemas"];
/** A job. The API says of its request only that it is one; this is what it is made of. */
export type Job = Omit<Schemas["JobResource"], "request"> & { request: DrawRequest };
/** A job as it is told by the API. */
export type ToldJob = Schemas["JobResource"];
export type JobBody = Omit<Schemas["JobBody"], "request"> & { request: DrawRequest };
export type Picture = Schemas["Picture"];
export type Model = Schemas["ModelResource"];
export type Adapter = Schemas["AdapterResource"];
export type Sampler = Schemas["SamplerResource"];
export type Schedule = Schemas["ScheduleResource"];
export type Plan = Schemas["Plan"];
export type Asset = Schemas["AssetResource"];
export type Recipe = Schemas["PictureMetadata"]["recipe"];
export type DrawRequest = Schemas["Request"];

/** The page may lie below a path, behind a proxy; the API lies beside it. */
export const base = new URL(".", document.baseURI).pathname.replace(/\/$/, "");

/** An address of the API's answers, such as `/v1/images/...`, as the browser finds it. */
export const address = (path: string): string => base + path;

const checks: Middleware = {
  onRequest({ request }) {
    const key = keyOf();
    if (key) request.headers.set("Authorization", `Bearer ${key}`);
  },
};

async function answer(request: Request): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(request);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw Problem.offline();
  }
  if (response.status === 401) askForKey();
  if (!response.ok) throw await Problem.of(response);
  return response;
}

/** An answer whose JSON is read exactly: seeds have up to 64 bits, more than a number of JavaScript holds. */
async function exactAnswer(request: Request): Promise<Response> {
  const response = await answer(request);
  if (response.status === 204 || !response.headers.get("content-type")?.includes("json")) return response;
  const text = await response.text();
  const headers = new Headers(response.headers);
  headers.set("content-length", String(text.length)); // with a length, openapi-fetch takes `json` and not `JSON.parse`
  const made = new Response(text, { status: response.status, headers });
  Object.defineProperty(made, "json", { value: async () => readJson(text) });
  return made;
}

const client = createClient<paths>({
  baseUrl: window.location.origin + base,
  fetch: exactAnswer,
  bodySerializer: (body) => ((body as unknown) instanceof FormData ? body : exactJson(body)),
});
client.use(checks);

/** The typed client, as openapi-fetch has it: `api.GET("/v1/jobs/{id}", { params: { path: { id } } })`. Every refusal is
 * thrown as a `Problem`, so `data` is always there. */
export const api = client;

/** What an answer holds. Throws `Problem`. */
export async function data<T>(call: Promise<{ data?: T }>): Promise<T> {
  return (await call).data as T;
}

const TWICE = 500; // milliseconds within which the same job is that of a double click, or of a key pressed twice
let asked = { text: "", key: "", at: -TWICE };

/** Submit a job. The key makes a repeat, after a lost answer or by a double click, the same job. */
export async function submit(body: JobBody): Promise<Job> {
  const [text, now] = [exactJson(body), performance.now()];
  asked = { text, key: text === asked.text && now - asked.at < TWICE ? asked.key : uuid(), at: now };
  const params = { header: { "Idempotency-Key": asked.key } };
  const call = () => api.POST("/v1/jobs", { body: body as unknown as Schemas["JobBody"], params });
  try {
    return (await data(call())) as unknown as Job;
  } catch (error) {
    if (!(error instanceof Problem && error.isOffline)) throw error;
    return (await data(call())) as unknown as Job;
  }
}

/** A picture as the server takes it: of another kind than these, such as GIF or AVIF, a PNG is made, where the browser can. */
async function sendable(file: Blob): Promise<Blob> {
  if (/^image\/(png|jpeg|webp)$/.test(file.type)) return file;
  try {
    const picture = await createImageBitmap(file);
    const canvas = new OffscreenCanvas(picture.width, picture.height);
    canvas.getContext("2d")?.drawImage(picture, 0, 0);
    return await canvas.convertToBlob({ type: "image/png" });
  } catch {
    return file; // the server says what it is
  }
}

/** Upload a picture to draw from. */
export async function upload(file: Blob, name = "picture.png"): Promise<Asset> {
  const form = new FormData();
  form.append("file", await sendable(file), name);
  return await data(api.POST("/v1/assets", { body: form as never }));
}

/** The bytes of a picture or another file of the API. */
export async function bytes(path: string, init: RequestInit = {}): Promise<Blob> {
  const request = new Request(address(path), init);
  const key = keyOf();
  if (key) request.headers.set("Authorization", `Bearer ${key}`);
  return await (await answer(request)).blob();
}
