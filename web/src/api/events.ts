// Server-sent events, read by fetch: EventSource can send no key.

import { address } from "./index";
import { readJson } from "./json";
import { askForKey, keyOf } from "./key.svelte";

/** An event of a job: `status`, `progress`, `preview`, `output` or `notice`, with what the API says of it. */
export interface JobEvent {
  number: number;
  type: string;
  data: Record<string, unknown>;
}

const PATIENCE = [250, 500, 1000, 2000, 4000]; // milliseconds before each new try

interface Listening {
  /** Number of the last event that was seen, to go on after it. */
  last?: number;
  /** Told whether there is a connection. */
  onConnection?: (isThere: boolean) => void;
  /** Whether an event is the last one. */
  isLast?: (event: JobEvent) => boolean;
}

/** Listen to a stream of events. `on` is told each as it happens. Goes on after a lost connection where it was cut off,
 * and ends by itself after the last event, or where the server refuses it. Returns a function that ends it. */
export function listen(path: string, on: (event: JobEvent) => void, options: Listening = {}): () => void {
  const stop = new AbortController();
  let last = options.last ?? 0;
  void (async () => {
    for (let lost = 0; !stop.signal.aborted;) {
      try {
        const headers: Record<string, string> = { Accept: "text/event-stream" };
        if (last > 0) headers["Last-Event-ID"] = String(last);
        if (keyOf()) headers["Authorization"] = `Bearer ${keyOf()}`;
        const response = await fetch(address(path), { headers, signal: stop.signal });
        if (response.status === 401) askForKey();
        if (
          response.status === 204 ||
          (response.status >= 400 && response.status < 500 && response.status !== 429)
        )
          return;
        if (response.ok && response.body) {
          options.onConnection?.(true);
          lost = 0;
          for await (const event of eventsOf(response.body)) {
            last = event.number;
            on(event);
            if (options.isLast?.(event)) return;
          }
        }
      } catch {
        if (stop.signal.aborted) return;
      }
      if (stop.signal.aborted) return;
      options.onConnection?.(false);
      await new Promise((next) => setTimeout(next, PATIENCE[Math.min(lost, PATIENCE.length - 1)]));
      lost += 1;
    }
  })();
  return () => stop.abort();
}

/** Watch one job to its end. Views use `jobs` of the state instead, which follows all of them by one stream. */
export function watchJob(id: string, on: (event: JobEvent) => void, last = 0): () => void {
  const isLast = (event: JobEvent): boolean => event.type === "status" && isFinal(event.data["status"]);
  return listen(`/v1/jobs/${id}/events`, on, { last, isLast });
}

export const isFinal = (status: unknown): boolean =>
  status === "succeeded" || status === "failed" || status === "canceled" || status === "expired";

/** The events of a stream of text. */
export async function* eventsOf(body: ReadableStream<Uint8Array>): AsyncGenerator<JobEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += decoder.decode(value, { stream: true });
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const event = eventOf(text.slice(0, end));
        text = text.slice(end + 2);
        if (event) yield event;
      }
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

function eventOf(block: string): JobEvent | null {
  const found: Record<string, string> = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(": ");
    if (colon > 0) found[line.slice(0, colon)] = line.slice(colon + 2);
  }
  if (!found["event"] || !found["data"]) return null; // a comment, or how long to wait
  return {
    number: Number(found["id"] ?? 0),
    type: found["event"],
    data: readJson(found["data"]) as Record<string, unknown>,
  };
}
