// A large file on its way to the server, with how far it is, which `fetch` does not tell.

import { address } from "./index";
import { readJson } from "./json";
import { askForKey, keyOf } from "./key.svelte";
import { Problem } from "./problem";

interface Options {
  /** Bytes that have left, of all. */
  onProgress?: (sent: number, all: number) => void;
  signal?: AbortSignal;
}

/** POST the bytes of a file. -> the JSON of the answer. Throws `Problem`, and an AbortError where the signal stops it. */
export function send(path: string, file: Blob, { onProgress, signal }: Options = {}): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const asked = new XMLHttpRequest();
    asked.open("POST", address(path));
    asked.setRequestHeader("Content-Type", "application/octet-stream");
    const key = keyOf();
    if (key) asked.setRequestHeader("Authorization", `Bearer ${key}`);
    asked.upload.onprogress = (event) => onProgress?.(event.loaded, event.total);
    asked.onerror = () => reject(Problem.offline());
    asked.onabort = () => reject(new DOMException("stopped", "AbortError"));
    asked.onload = () => {
      if (asked.status === 401) askForKey();
      if (asked.status >= 200 && asked.status < 300) {
        resolve(readJson(asked.responseText));
      } else {
        const id = asked.getResponseHeader("x-request-id");
        const headers = id ? { "x-request-id": id } : undefined;
        void Problem.of(new Response(asked.responseText, { status: asked.status, headers })).then(reject);
      }
    };
    signal?.addEventListener("abort", () => asked.abort());
    if (signal?.aborted) reject(new DOMException("stopped", "AbortError"));
    else asked.send(file);
  });
}
