import { expect, test } from "vitest";
import { moveElement, named, weigh } from "./weights";

/** Text with | at both ends of the selection, or once for a caret -> the text after a press, marked the same way. */
function pressed(marked: string, up: boolean): string {
  const start = marked.indexOf("|");
  const end = marked.lastIndexOf("|");
  const text = marked.replaceAll("|", "");
  const edit = weigh(text, start, end === start ? start : end - 1, up);
  if (!edit) return marked;
  const after = text.slice(0, edit.from) + edit.by + text.slice(edit.to);
  return `${after.slice(0, edit.start)}|${after.slice(edit.start, edit.end)}|${after.slice(edit.end)}`;
}

test.each([
  ["a |red| car", true, "a (|red|:1.1) car"],
  ["a |red| car", false, "a (|red|:0.9) car"],
  ["a re|d car", true, "a (|red|:1.1) car"],
  ["a (|red|:1.1) car", true, "a (|red|:1.2) car"],
  ["a (re|d:1.1) car", true, "a (|red|:1.2) car"],
  ["a |(red:1.1)| car", true, "a (|red|:1.2) car"],
  ["a (|red|:1.1) car", false, "a |red| car"],
  ["a (|red|:0.9) car", true, "a |red| car"],
  ["a |red car, |blue", true, "a (|red car|:1.1), blue"],
  ["(a |red| car:1.3)", true, "(a (|red|:1.1) car:1.3)"],
  ["a <lo|ra:comic:1> car", false, "a |<lora:comic:0.95>| car"],
  ["a <lora:comic|> car", true, "a |<lora:comic:1.05>| car"],
  ["", true, ""],
  ["a  |  b", true, "a  |  b"],
])("%s, up %s, becomes %s", (before, up, after) => {
  expect(pressed(before, up)).toBe(after);
});

test("ten presses up and ten down give the text back", () => {
  let text = "a |red| car";
  for (let i = 0; i < 10; i += 1) text = pressed(text, true);
  expect(text).toBe("a (|red|:2) car");
  for (let i = 0; i < 10; i += 1) text = pressed(text, false);
  expect(text).toBe("a |red| car");
});

test("an element between commas moves past its neighbour, with the selection", () => {
  const text = "a car, red, night";
  const edit = moveElement(text, 8, 1);
  expect(edit && edit.by).toBe("a car, night, red");
  expect(edit && edit.by.slice(edit.start, edit.end)).toBe("red");
  expect(moveElement(text, 1, -1)).toBeNull();
  expect(moveElement(text, 17, 1)).toBeNull();
});

test("the LoRA that a prompt names have names, weights and places", () => {
  expect(named("a car <lora:comic:0.5>, <LYCO:wood cut>")).toEqual([
    { name: "comic", weight: 0.5, from: 6, to: 22 },
    { name: "wood cut", weight: 1, from: 24, to: 39 },
  ]);
  expect(named("a <b> <lora:> (lora:x:1)")).toEqual([]);
});
