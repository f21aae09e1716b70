// The only way to the server: gesso's public API, with types made of docs/openapi.json (`npm run types`).

import createClient, { type Middleware } from "openapi-fetch";
import { exactJson, readJson } from "./json";
import { askForKey, keyOf } from "./key.svelte";
import { Problem } from "./problem";
import type { components, paths } from "./schema";

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

/** Submit a job. The key makes a repeat, after a lost answer, the same job. */
export async function submit(body: JobBody): Promise<Job> {
  const call = () => api.POST("/v1/jobs", { body: body as unknown as Schemas["JobBody"], params });
  const params = { header: { "Idempotency-Key": crypto.randomUUID() } };
  try {
    return (await data(call())) as unknown as Job;
  } catch (error) {
    if (!(error instanceof Problem && error.isOffline)) throw error;
    return (await data(call())) as unknown as Job;
  }
}

/** Upload a picture to draw from. */
export async function upload(file: Blob, name = "picture.png"): Promise<Asset> {
  const form = new FormData();
  form.append("file", file, name);
  return await data(api.POST("/v1/assets", { body: form as never }));
}

/** The bytes of a picture or another file of the API. */
export async function bytes(path: string, init: RequestInit = {}): Promise<Blob> {
  const request = new Request(address(path), init);
  const key = keyOf();
  if (key) request.headers.set("Authorization", `Bearer ${key}`);
  return await (await answer(request)).blob();
}
