// The frame of outpainting: dragged freely, then brought to what the model can draw, as the server does it.

import { intersect, isEmpty, whole, type Rect, type Size } from "./geometry";

export const MAX_SIDE = 4096;

export type Handle = "n" | "ne" | "e" | "se" | "s" | "sw" | "w" | "nw" | "move";

/** left, top, right, bottom */
export type Sides = [number, number, number, number];

export interface Mapped {
  /** The part of the picture that is kept, in its pixels. */
  crop: Rect;
  /** Pixels to add around it. */
  borders: Sides;
  /** What the finished picture covers, in pixels of the picture. */
  frame: Rect;
  /** Whether the frame had to be made larger. */
  widened: boolean;
}

export type FrameProblem = "outside" | "too-large" | "unchanged";

/** A frame as it is after a handle was moved from where it was grasped; never smaller than `least` pixels a side. */
export function dragged(frame: Rect, handle: Handle, dx: number, dy: number, least = 16): Rect {
  if (handle === "move") return { ...frame, x: Math.round(frame.x + dx), y: Math.round(frame.y + dy) };
  let [left, top, right, bottom] = [frame.x, frame.y, frame.x + frame.w, frame.y + frame.h];
  if (handle.includes("w")) left = Math.min(Math.round(left + dx), right - least);
  if (handle.includes("e")) right = Math.max(Math.round(right + dx), left + least);
  if (handle.includes("n")) top = Math.min(Math.round(top + dy), bottom - least);
  if (handle.includes("s")) bottom = Math.max(Math.round(bottom + dy), top + least);
  return { x: left, y: top, w: right - left, h: bottom - top };
}

/** The frame with these borders around the picture; negative ones crop. */
export function frameOf(picture: Size, [left, top, right, bottom]: Sides): Rect {
  return { x: -left, y: -top, w: picture.width + left + right, h: picture.height + top + bottom };
}

export function sidesOf(picture: Size, frame: Rect): Sides {
  return [
    -frame.x || 0,
    -frame.y || 0,
    frame.x + frame.w - picture.width,
    frame.y + frame.h - picture.height,
  ];
}

/** What a frame asks of the server: crop, then extend. Sides become multiples of `multiple` by wider borders: at the
 * right or the bottom, unless only the other side was extended. */
export function mapFrame(picture: Size, frame: Rect, multiple: number): Mapped | FrameProblem {
  const crop = intersect(frame, whole(picture));
  if (isEmpty(crop)) return "outside";
  const given = sidesOf(
    { width: crop.w, height: crop.h },
    { ...frame, x: frame.x - crop.x, y: frame.y - crop.y },
  );
  if (given.every((side) => side === 0)) return "unchanged";
  let [left, top, right, bottom] = given;
  const missing = (side: number): number => (multiple - (side % multiple)) % multiple;
  const more = missing(frame.w);
  const moreDown = missing(frame.h);
  if (right > 0 || left === 0) right += more;
  else left += more;
  if (bottom > 0 || top === 0) bottom += moreDown;
  else top += moreDown;
  const mapped: Mapped = {
    crop,
    borders: [left, top, right, bottom],
    frame: { x: crop.x - left, y: crop.y - top, w: crop.w + left + right, h: crop.h + top + bottom },
    widened: more + moreDown > 0,
  };
  return mapped.frame.w > MAX_SIDE || mapped.frame.h > MAX_SIDE ? "too-large" : mapped;
}

/** Whether a frame only cuts off, which needs no model. */
export function isCrop(picture: Size, frame: Rect): boolean {
  const inside = intersect(frame, whole(picture));
  return (
    !isEmpty(inside) &&
    inside.w === frame.w &&
    inside.h === frame.h &&
    (frame.w < picture.width || frame.h < picture.height)
  );
}

/** The handle of a frame near a point on the screen; frame in screen pixels. */
export function handleAt(frame: Rect, at: { x: number; y: number }, reach = 14): Handle | null {
  const near = (value: number, target: number): boolean => Math.abs(value - target) <= reach;
  const within = (value: number, from: number, length: number): boolean =>
    value >= from - reach && value <= from + length + reach;
  if (!within(at.x, frame.x, frame.w) || !within(at.y, frame.y, frame.h)) return null;
  const column = near(at.x, frame.x) ? "w" : near(at.x, frame.x + frame.w) ? "e" : "";
  const row = near(at.y, frame.y) ? "n" : near(at.y, frame.y + frame.h) ? "s" : "";
  return row + column === "" ? null : ((row + column) as Handle);
}
