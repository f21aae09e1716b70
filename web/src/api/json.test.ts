import { expect, test } from "vitest";
import { exactJson, readJson } from "./json";

test("numbers that JavaScript holds stay numbers", () => {
  expect(readJson('{"seed": 7, "scale": 3.5, "big": 9007199254740991}')).toEqual({
    seed: 7,
    scale: 3.5,
    big: 9007199254740991,
  });
});

test("a seed of 64 bits comes back as it went", () => {
  const knowsSource = (JSON as { rawJSON?: unknown }).rawJSON !== undefined;
  const text = '{"seed":18446744073709551615}';
  if (knowsSource) expect(exactJson(readJson(text))).toBe(text);
  else expect(exactJson({ seed: 5n })).toBe('{"seed":5}');
});

test("an empty answer is none", () => {
  expect(readJson("")).toBeUndefined();
});

test("texts go out without NUL and without half a surrogate pair", () => {
  expect(exactJson({ prompt: "a\0 red \ud83dcar\ude97 🚗" })).toBe('{"prompt":"a red car 🚗"}');
});
