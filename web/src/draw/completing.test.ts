import { expect, test } from "vitest";
import { askedAt, inserted, matching, type Completion } from "./completing";

const one = (
  kind: Completion["kind"],
  label: string,
  insert = label,
  more: Partial<Completion> = {},
): Completion => ({
  kind,
  label,
  insert,
  detail: "",
  trigger_words: [],
  aliases: [],
  license: null,
  thumbnail_url: null,
  ...more,
});
const ITEMS = [
  one("lora", "comic", "<lora:comic:1>", { trigger_words: ["in comic style"] }),
  one("lora", "woodcut", "<lora:woodcut:1>"),
  one("object", "cat", "cat", { aliases: ["kitty"] }),
  one("object", "car"),
  one("wildcard", "colours", "__colours__"),
  one("syntax", "More weight", "(|:1.2)"),
  one("syntax", "Alternating", "[||]"),
  one("object", "carrot"),
];
const found = (text: string, words = true): string[] => {
  const asked = askedAt(text, text.length, words);
  return asked ? matching(ITEMS, asked).map((each) => each.label) : [];
};

test("each sign completes its kind", () => {
  expect(found("a car <")).toEqual(["comic", "woodcut"]);
  expect(found("a car <lora")).toEqual(["comic", "woodcut"]);
  expect(found("a car <lora:wo")).toEqual(["woodcut"]);
  expect(found("a car __")).toEqual(["colours"]);
  expect(found("a (")).toEqual(["More weight"]);
  expect(found("a [")).toEqual(["Alternating"]);
});

test("words complete by their beginning, and by other words for the same, but not when they are whole", () => {
  expect(found("a ca")).toEqual(["cat", "car", "carrot"]);
  expect(found("a kit")).toEqual(["cat"]);
  expect(found("a cat")).toEqual([]);
  expect(found("a car")).toEqual([]);
  expect(found("a carr")).toEqual(["carrot"]);
  expect(found("a c")).toEqual([]);
  expect(found("a ca", false)).toEqual([]);
});

test("a closed wildcard, a comma and a space complete nothing", () => {
  expect(found("a __colours__ car ")).toEqual([]);
  expect(found("a car, ")).toEqual([]);
});

test("a LoRA brings its trigger words, syntax the caret to its place", () => {
  expect(inserted(ITEMS[0] as Completion).text).toBe("<lora:comic:1> in comic style");
  expect(inserted(ITEMS[5] as Completion)).toEqual({ text: "(:1.2)", caret: 1 });
  expect(inserted(ITEMS[6] as Completion)).toEqual({ text: "[|]", caret: 1 });
});
