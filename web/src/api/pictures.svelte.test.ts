import { flushSync } from "svelte";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { setKey } from "./key.svelte";
import { source, type Source } from "./pictures.svelte";

let asked: Request[] = [];
let answers: ((response: Response) => void)[] = [];

beforeEach(() => {
  asked = [];
  answers = [];
  setKey("secret");
  vi.stubGlobal(
    "fetch",
    (request: Request) =>
      new Promise((resolve, reject) => {
        asked.push(request);
        answers.push(resolve);
        request.signal.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
      }),
  );
});
afterEach(() => {
  setKey("");
  vi.unstubAllGlobals();
});

/** A component that shows a picture. -> what it shows, and how it goes */
function shown(path: string): [Source, () => void] {
  let found: Source | undefined;
  const leave = $effect.root(() => {
    found = source(() => path);
  });
  flushSync();
  return [found as Source, leave];
}

it("fetches a picture with the key once, for all who show it", async () => {
  const [[first, leaveFirst], [second, leaveSecond]] = [shown("/v1/once"), shown("/v1/once")];
  expect(asked.map((one) => one.headers.get("Authorization"))).toEqual(["Bearer secret"]);
  expect(first.url).toBeNull();
  leaveFirst();
  expect(asked[0]?.signal.aborted).toBe(false);
  answers[0]?.(new Response("bytes"));
  await vi.waitFor(() => expect(second.url).toMatch(/^blob:/));
  leaveSecond();
  const [third, leaveThird] = shown("/v1/once");
  await vi.waitFor(() => expect(third.url).toBe(second.url));
  expect(asked.length).toBe(1);
  leaveThird();
});

it("stops to fetch what nobody waits for any more, and begins anew when somebody does", async () => {
  const [, leave] = shown("/v1/gone");
  leave();
  expect(asked[0]?.signal.aborted).toBe(true);
  const [back, leaveBack] = shown("/v1/gone");
  expect(asked.length).toBe(2);
  answers[1]?.(new Response("bytes"));
  await vi.waitFor(() => expect(back.url).toMatch(/^blob:/));
  leaveBack();
});
