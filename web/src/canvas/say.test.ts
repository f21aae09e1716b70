import { describe, expect, test } from "vitest";
import { say } from "./say";

const CAR = "a red car on a yellow background";
const of = (sentence: string, prompt = CAR) =>
  say(sentence, { prompt, negative: "", loras: ["woodcut", "comic"] });

describe("what it does to the prompt", () => {
  test.each([
    ["make it night", "a red car on a black background, at night"],
    ["make it sunset", "a red car on a yellow background, at sunset"],
    ["Make it blue!", "a blue car on a yellow background"],
    ["make the car green please", "a green car on a yellow background"],
    ["could you paint it orange?", "an orange car on a yellow background"],
    ["a blue background", "a red car on a blue background"],
    ["change the background to purple", "a red car on a purple background"],
    ["remove the background", "a red car on a white background"],
    ["replace the car with a bus", "a bus on a yellow background"],
    ["a bus instead of the car", "a bus on a yellow background"],
    ["turn it into a green bicycle", "a green bicycle on a yellow background"],
    ["add a dog", "a red car and a dog on a yellow background"],
    ["two of them", "two red cars on a yellow background"],
    ["make it three", "three red cars on a yellow background"],
    ["a pencil on a white background", "a pencil on a white background"],
    ["make it black and white", "a red car on a yellow background, in black and white"],
    ["make it steampunk", "a red car on a yellow background, steampunk"],
    ["as an oil painting", "a red car on a yellow background, oil painting style"],
    ["mach es nacht", "a red car on a black background, at night"],
    ["füge einen grünen Ball hinzu", "a red car and a green ball on a yellow background"],
    ["mach den Hintergrund weiß", "a red car on a white background"],
  ])("%s", (sentence, prompt) => {
    expect(of(sentence).prompt).toBe(prompt);
    expect(of(sentence).left).toEqual([]);
  });

  test("removes a part with the word that joins it", () => {
    const said = of("remove the dog", "a cat and a dog on a blue background");
    expect(said.prompt).toBe("a cat on a blue background");
    expect(said.negative).toBe("dog");
  });

  test("removes the first of two", () => {
    expect(of("without the cat", "a cat and a dog").prompt).toBe("a dog");
  });

  test("a time of day takes the place of another", () => {
    expect(of("make it day", "a red car, at night").prompt).toBe("a red car, by day");
  });

  test("one of many", () => {
    expect(of("just one", "three green apples").prompt).toBe("a green apple");
  });

  test("German colours and things become English", () => {
    expect(of("mach es grün").prompt).toBe("a green car on a yellow background");
    expect(of("ein blauer Hintergrund").prompt).toBe("a red car on a blue background");
  });
});

describe("what it does to the pixels", () => {
  test.each([
    ["more to the left", { op: "shift", x: -0.15, y: 0 }],
    ["a bit more to the right", { op: "shift", x: 0.075, y: 0 }],
    ["move it up", { op: "shift", x: 0, y: -0.15 }],
    ["move the car down", { op: "shift", x: 0, y: 0.15 }],
    ["mehr nach links", { op: "shift", x: -0.15, y: 0 }],
    ["much bigger", { op: "scale", by: 1.45 }],
    ["zoom out", { op: "scale", by: 0.8 }],
    ["mirror it", { op: "mirror", axis: "x" }],
    ["upside down", { op: "mirror", axis: "y" }],
    ["darker", { op: "tone", name: "darker", amount: 1 }],
    ["make it a bit warmer", { op: "tone", name: "warmer", amount: 0.5 }],
    ["heller", { op: "tone", name: "brighter", amount: 1 }],
  ])("%s", (sentence, look) => {
    const said = of(sentence);
    expect(said.looks).toEqual([look]);
    expect(said.prompt).toBe(CAR);
    expect(said.left).toEqual([]);
  });

  test("more room", () => {
    expect(of("more space on the left").extend).toEqual([25, 0, 0, 0]);
    expect(of("make it wider").extend).toEqual([25, 0, 25, 0]);
    expect(of("more sky above").extend).toEqual([0, 25, 0, 0]);
    expect(of("make it night").extend).toBeNull();
  });
});

describe("several wishes", () => {
  test("joined by and", () => {
    const said = of("make it night and more to the left");
    expect(said.parts.map((part) => part.kind)).toEqual(["background", "time", "shift"]);
    expect(said.strength).toBe(0.5);
  });

  test("joined by a comma", () => {
    expect(of("blue, bigger, mirrored").parts.map((part) => part.kind)).toEqual([
      "colour",
      "scale",
      "mirror",
    ]);
  });

  test("one wish with an and in it stays one", () => {
    expect(of("add a cat and a dog").prompt).toBe("a red car and a cat and a dog on a yellow background");
    expect(of("a cat and a dog").prompt).toBe("a cat and a dog");
  });

  test("make it holds for the second, too", () => {
    expect(of("make it dark and dreamy").prompt).toBe(`${CAR}, dreamy`);
  });
});

describe("honesty", () => {
  test("what is not understood is told, and the rest is done", () => {
    const said = of("make it blue, frobnicate the wobble");
    expect(said.parts.map((part) => part.kind)).toEqual(["colour"]);
    expect(said.left).toEqual([{ words: "frobnicate the wobble", why: "unknown" }]);
  });

  test("nothing is guessed", () => {
    const said = of("why is the sky so far away from here");
    expect(said.parts).toEqual([]);
    expect(said.prompt).toBe(CAR);
  });

  test("what the prompt does not have", () => {
    expect(of("replace the dog with a cat").left).toEqual([
      { words: "replace the dog with a cat", why: "not-in-prompt" },
    ]);
    expect(of("make the dog blue").left).toEqual([{ words: "make the dog blue", why: "not-in-prompt" }]);
  });

  test("an empty sentence", () => {
    expect(of("  ").parts).toEqual([]);
    expect(of("...").left).toEqual([]);
  });

  test("patterns in a prompt are text", () => {
    expect(of("remove the c++ (x", "c++ (x and a dog").negative).toBe("c++ (x");
  });
});

test("less and more go by the last strength", () => {
  const knows = { prompt: CAR, negative: "", strength: 0.6 };
  expect(say("less", knows).strength).toBe(0.42);
  expect(say("more", knows).strength).toBe(0.81);
});

test("a style that is there as a LoRA is taken as one", () => {
  expect(of("as a woodcut").loras).toEqual(["woodcut"]);
  expect(of("make it a comic").loras).toEqual(["comic"]);
  expect(of("as a woodcut").prompt).toBe(CAR);
});

test("again and undo change nothing", () => {
  expect(of("again").parts).toEqual([{ kind: "again", words: "again" }]);
  expect(of("undo").parts).toEqual([{ kind: "undo", words: "undo" }]);
  expect(of("again").prompt).toBe(CAR);
});

test("nothing takes long", () => {
  const start = performance.now();
  say("a ".repeat(2000) + "background", { prompt: "a ".repeat(1000), negative: "" });
  expect(performance.now() - start).toBeLessThan(1000);
});

test("what names something that the prompt does not have is left over, not put into the prompt", () => {
  const said = say("mach das Haus rot", { prompt: "a blue house", negative: "" });
  expect(said.parts).toEqual([]);
  expect(said.left).toEqual([{ words: "mach das Haus rot", why: "not-in-prompt" }]);
  expect(say("give the cat a hat", { prompt: "a blue house", negative: "" }).left[0]?.why).toBe(
    "not-in-prompt",
  );
});

test("something is given to what is there, and a place needs no verb", () => {
  const knows = { prompt: "a blue house on a yellow background", negative: "" };
  expect(say("give the house a red door", knows).prompt).toBe(
    "a blue house and a red door on a yellow background",
  );
  const said = say("at the beach", knows);
  expect(said.parts.map((one) => one.kind)).toEqual(["loose"]);
  expect(said.prompt).toBe("a blue house on a yellow background, at the beach");
});
