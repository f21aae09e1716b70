// Prompts to begin with. They stay English in every language: that is what models read best.

const MINI = [
  "a red car and a tree on a yellow background",
  "a cat and a moon on a blue background",
  "a pizza on a red background",
  "a panda and a green umbrella",
  "a fox and a mushroom on a white background",
  "three apples on a blue background",
  "a penguin and a purple balloon",
  "a rocket and the moon on a black background",
  "a green frog and a red flower",
  "a yellow house and a tree",
];
const LARGE = [
  "a lighthouse on a cliff before a storm, oil painting",
  "a cup of tea by a rainy window, soft morning light",
  "a fox asleep in autumn leaves, watercolour",
  "an old library with a spiral staircase, warm lamps",
  "a small boat on a still lake at dawn, mist",
  "a greenhouse full of ferns, sun through the glass",
  "a street in Lisbon after rain, evening, reflections",
  "a bowl of lemons on a blue cloth, still life",
];
const SHOWN = 5;

/** Some prompts that suit a family of models; another `turn` gives others. */
export function suggested(family: string, turn: number): string[] {
  const all = family === "gesso-mini" ? MINI : LARGE;
  return Array.from({ length: SHOWN }, (_, index) => all[(turn * SHOWN + index) % all.length] as string);
}
