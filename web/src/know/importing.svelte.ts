// Model files on their way into the library: one after another, since each is as large as a connection and a disk are fast.

import { send } from "../api/send";
import { Problem } from "../api";
import type { components } from "../api/schema";
import { server } from "../state/server.svelte";
import { go, here } from "../shell/routes";
import { tell, tellError } from "../state/notices.svelte";
import { changed } from "../state/tabs";
import { importing as text } from "../text/know";
import { modelName } from "./drop";

/** What the server says of a file that it has taken in. */
export type Taken = components["schemas"]["TakenModel"];

/** sent  share of the bytes that have left, 0 to 1; at 1 the server looks into the file */
export interface Import {
  readonly id: number;
  readonly name: string;
  state: "waiting" | "sending" | "reading" | "done" | "failed" | "canceled";
  sent: number;
  taken: Taken | null;
  problem: Problem | null;
}

let list = $state<Import[]>([]);
const files = new Map<number, File>();
const stops = new Map<number, AbortController>();
let next = 1;
let isBusy = false;

export const imports = {
  get list(): Import[] {
    return list;
  },
  /** Stop one, or take the line of one that has ended away. */
  dismiss(id: number): void {
    const one = list.find((each) => each.id === id);
    if (one?.state === "waiting") {
      one.state = "canceled";
      files.delete(id);
    } else if (one && (one.state === "sending" || one.state === "reading")) {
      stops.get(id)?.abort();
    } else {
      list = list.filter((each) => each.id !== id);
    }
  },
};

/** Take a model file into the library. What comes of it stands in `imports.list`. */
export function takeModel(file: File): void {
  const id = next++;
  files.set(id, file);
  list = [...list, { id, name: file.name, state: "waiting", sent: 0, taken: null, problem: null }];
  void work();
}

async function work(): Promise<void> {
  if (isBusy) return;
  isBusy = true;
  try {
    for (;;) {
      const one = list.find((each) => each.state === "waiting");
      if (!one) return;
      await take(one);
    }
  } finally {
    isBusy = false;
  }
}

async function take(one: Import): Promise<void> {
  const file = files.get(one.id);
  files.delete(one.id);
  if (!file) return;
  const stop = new AbortController();
  stops.set(one.id, stop);
  one.state = "sending";
  try {
    const path = `/v1/models?name=${encodeURIComponent(file.name)}`;
    one.taken = (await send(path, file, {
      signal: stop.signal,
      onProgress: (sent, all) => {
        one.sent = all > 0 ? sent / all : 1;
        if (sent >= all) one.state = "reading";
      },
    })) as Taken;
    one.state = "done";
    changed("models");
    if (here.view !== "models") tell(words(one), { label: text.show, run: () => go("#/models") });
    await server.read();
  } catch (error) {
    if (one.state === "done") return; // it is in the library, only the list of it could not be read anew
    const isStopped = error instanceof DOMException && error.name === "AbortError";
    one.state = isStopped ? "canceled" : "failed";
    one.problem = isStopped ? null : Problem.from(error);
    if (one.problem && here.view !== "models") tellError(words(one), error);
  } finally {
    stops.delete(one.id);
  }
}

/** What a file is called once it is in the library. */
export const nameOf = (one: Import): string => one.taken?.name ?? modelName(one.name);

const KINDS = ["lora", "embedding", "control", "upscaler", "image_encoder"] as const;

function kindWords(taken: Taken | null): string {
  if (taken?.use === "model") return text.model;
  return text[KINDS.find((one) => one === taken?.kind) ?? "other"];
}

/** What is going on with a file, in a sentence. */
export function words(one: Import): string {
  if (one.state === "waiting") return text.waiting(one.name);
  if (one.state === "sending") return text.sending(one.name);
  if (one.state === "reading") return text.reading(one.name);
  if (one.state === "canceled") return text.canceled(one.name);
  if (one.state === "failed") return text.failed(one.name);
  return text.took(nameOf(one), kindWords(one.taken), one.taken?.family ?? null);
}
