// Sizes: those of one area that a model draws well, in the shapes that people ask for.

import type { Model } from "../api";
import { fitted } from "../state/form.svelte";

export interface Shape {
  /** Width and height in small numbers, such as 3 to 2. */
  ratio: [number, number];
}

export const SHAPES: readonly Shape[] = [
  { ratio: [1, 1] },
  { ratio: [4, 3] },
  { ratio: [3, 2] },
  { ratio: [16, 9] },
  { ratio: [3, 4] },
  { ratio: [2, 3] },
  { ratio: [9, 16] },
];

/** Width and height of a shape, with about the area of the model's own size and in its multiples. */
export function sizeOf({ ratio: [w, h] }: Shape, model: Pick<Model, "defaults">): [number, number] {
  const area = model.defaults.width * model.defaults.height;
  const side = Math.sqrt(area / (w * h));
  return [fitted(side * w, model), fitted(side * h, model)];
}
