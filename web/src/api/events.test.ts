import { expect, test } from "vitest";
import { eventsOf } from "./events";

function stream(parts: string[]): ReadableStream<Uint8Array> {
  const coder = new TextEncoder();
  return new ReadableStream({
    start(controller) {
      for (const part of parts) controller.enqueue(coder.encode(part));
      controller.close();
    },
  });
}

test("events are read whole, wherever the parts are cut", async () => {
  const text =
    'retry: 2000\n\nid: 1\nevent: status\ndata: {"status":"running"}\n\n: still here\n\n' +
    'id: 2\nevent: progress\ndata: {"value":0.5}\n\n';
  for (const size of [1, 7, 1000]) {
    const parts = text.match(new RegExp(`[\\s\\S]{1,${size}}`, "g")) ?? [];
    const found = [];
    for await (const event of eventsOf(stream(parts))) found.push(event);
    expect(found).toEqual([
      { number: 1, type: "status", data: { status: "running" } },
      { number: 2, type: "progress", data: { value: 0.5 } },
    ]);
  }
});
