import { expect, test } from "vitest";
import { parted } from "./marks";

const marked = (text: string, unknown: string[]): string =>
  parted(text, unknown)
    .map((part) => (part.unknown ? `*${part.text}*` : part.text))
    .join("");

test("unknown words are marked wherever they stand whole", () => {
  expect(marked("a zebra, two Zebra and zebras", ["zebra"])).toBe("a *zebra*, two *Zebra* and zebras");
  expect(marked("a (zebra:1.2)", ["zebra"])).toBe("a (*zebra*:1.2)");
});

test("names of adapters and wildcards are no words", () => {
  expect(marked("<lora:zebra:1> __zebra__ zebra", ["zebra"])).toBe("<lora:zebra:1> __zebra__ *zebra*");
});

test("nothing that a word holds is an expression", () => {
  expect(marked("c++ (a.b) x-y", ["c++", "a.b", "x-y"])).toBe("*c++* (*a.b*) *x-y*");
  expect(marked("abc", ["a.c"])).toBe("abc");
});

test("the parts are the text", () => {
  const text = "ein Zebra\nund <lora:x:1> ein Zebra ";
  expect(
    parted(text, ["Zebra"])
      .map((part) => part.text)
      .join(""),
  ).toBe(text);
});
