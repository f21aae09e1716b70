import { expect, test } from "vitest";
import { uuid } from "./unique";

test("a UUID of version 4, never twice", () => {
  const all = Array.from({ length: 200 }, uuid);
  for (const one of all)
    expect(one).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(new Set(all).size).toBe(200);
});
