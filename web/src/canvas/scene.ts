// Draws the document on the screen: everything when the view changes, a part when a part changes.

import {
  intersect,
  isEmpty,
  joined,
  rectToScreen,
  toScreen,
  type Point,
  type Rect,
  type Size,
  type View,
} from "./geometry";
import type { Handle } from "./frame";
import type { Layer } from "./layers";

export interface Shown {
  layers: readonly Layer[];
  size: Size;
  view: View;
  /** A candidate over the pictures, where it belongs; null: none. */
  candidate: { canvas: CanvasImageSource; frame: Rect } | null;
  /** Whether masks are shown, and hints. */
  masks: boolean;
  hints: boolean;
  /** The frame of outpainting, where one is being set. */
  frame: Rect | null;
}

interface Colours {
  ground: string;
  paper: string;
  line: string;
  accent: string;
  ink: string;
}

export function coloursOf(element: Element): Colours {
  const style = getComputedStyle(element);
  // light-dark() is resolved in a colour, not in a custom property: read it through one.
  const probe = document.createElement("i");
  element.append(probe);
  const read = (name: string): string => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color || style.color;
  };
  const found = {
    ground: read("--sunken"),
    paper: read("--paper"),
    line: read("--line"),
    accent: read("--accent"),
    ink: read("--ink"),
  };
  probe.remove();
  return found;
}

export class Scene {
  private readonly context: CanvasRenderingContext2D;
  private ratio = 1;
  private screen: Size = { width: 0, height: 0 };
  private checks: CanvasPattern | null = null;
  private hatch: CanvasPattern | null = null;

  constructor(
    private readonly canvas: HTMLCanvasElement,
    private colours: Colours,
  ) {
    this.context = canvas.getContext("2d", { alpha: false }) as CanvasRenderingContext2D;
  }

  resize(screen: Size, ratio: number): void {
    this.screen = screen;
    this.ratio = ratio;
    const [width, height] = [Math.round(screen.width * ratio), Math.round(screen.height * ratio)];
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
  }

  dye(colours: Colours): void {
    this.colours = colours;
    this.checks = null;
    this.hatch = null;
  }

  /** part: in pixels of the document; null: everything. */
  draw(shown: Shown, part: Rect | null): void {
    const { context, ratio } = this;
    const { view, size } = shown;
    const all: Rect = { x: 0, y: 0, w: this.screen.width, h: this.screen.height };
    // A pixel more on each side: smoothing reaches beyond what changed.
    const area =
      part === null
        ? all
        : intersect(rectToScreen(view, { x: part.x - 1, y: part.y - 1, w: part.w + 2, h: part.h + 2 }), all);
    if (isEmpty(area)) return;
    context.save();
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.beginPath();
    context.rect(area.x, area.y, area.w, area.h);
    context.clip();
    context.fillStyle = this.colours.ground;
    context.fillRect(area.x, area.y, area.w, area.h);
    const paper = rectToScreen(view, { x: 0, y: 0, w: size.width, h: size.height });
    // A pixel within, so that nothing of it shines through the smooth edge of the picture.
    context.fillStyle = this.pattern("checks");
    context.fillRect(paper.x + 1, paper.y + 1, paper.w - 2, paper.h - 2);
    if (shown.frame !== null) this.borders(rectToScreen(view, shown.frame), paper);
    // Only the part of a picture that is seen is drawn: a whole one takes long where it is large.
    const place = (image: CanvasImageSource, frame: Rect, from: Size): void => {
      const scale = view.scale;
      const visible = intersect(
        {
          x: Math.floor((area.x - view.x) / scale - frame.x) - 1,
          y: Math.floor((area.y - view.y) / scale - frame.y) - 1,
          w: Math.ceil(area.w / scale) + 3,
          h: Math.ceil(area.h / scale) + 3,
        },
        { x: 0, y: 0, w: frame.w, h: frame.h },
      );
      if (isEmpty(visible)) return;
      const [across, down] = [from.width / frame.w, from.height / frame.h];
      context.drawImage(
        image,
        visible.x * across,
        visible.y * down,
        visible.w * across,
        visible.h * down,
        (frame.x + visible.x) * scale + view.x,
        (frame.y + visible.y) * scale + view.y,
        visible.w * scale,
        visible.h * scale,
      );
    };
    const whole: Rect = { x: 0, y: 0, w: size.width, h: size.height };
    const layersOf = (kind: Layer["kind"]): Layer[] =>
      shown.layers.filter((one) => one.kind === kind && one.visible);
    context.imageSmoothingEnabled = view.scale < 2.5;
    context.imageSmoothingQuality = view.scale < 0.75 && part === null ? "high" : "low";
    for (const layer of layersOf("picture")) {
      context.globalAlpha = layer.opacity;
      place(layer.pixels.canvas, whole, size);
    }
    context.globalAlpha = 1;
    if (shown.candidate !== null) {
      const { canvas, frame } = shown.candidate;
      place(canvas, frame, canvas as HTMLCanvasElement);
    }
    for (const layer of layersOf("hint")) {
      if (shown.candidate !== null || !shown.hints) break;
      context.globalAlpha = layer.opacity;
      place(layer.pixels.canvas, whole, size);
    }
    if (shown.masks && shown.candidate === null) {
      for (const layer of layersOf("mask")) {
        if (part === null && layer.kind === "mask") layer.pixels.fit(view.scale);
        context.globalAlpha = layer.opacity;
        place(layer.pixels.canvas, whole, size);
      }
    }
    context.globalAlpha = 1;
    context.restore();
  }

  /** What will be drawn around the picture, and what will be cut off. */
  private borders(frame: Rect, paper: Rect): void {
    const { context } = this;
    context.save();
    context.beginPath();
    context.rect(frame.x, frame.y, frame.w, frame.h);
    context.rect(paper.x, paper.y, paper.w, paper.h);
    context.clip("evenodd");
    context.fillStyle = this.colours.paper;
    context.fillRect(frame.x, frame.y, frame.w, frame.h);
    context.fillStyle = this.pattern("hatch");
    context.fillRect(frame.x, frame.y, frame.w, frame.h);
    context.restore();
  }

  private pattern(name: "checks" | "hatch"): CanvasPattern | string {
    if (this[name] !== null) return this[name];
    const tile = document.createElement("canvas");
    tile.width = tile.height = 16;
    const context = tile.getContext("2d");
    if (context === null) return this.colours.paper;
    if (name === "checks") {
      context.fillStyle = this.colours.paper;
      context.fillRect(0, 0, 16, 16);
      context.fillStyle = this.colours.line;
      context.fillRect(0, 0, 8, 8);
      context.fillRect(8, 8, 8, 8);
    } else {
      context.strokeStyle = this.colours.accent;
      context.globalAlpha = 0.35;
      context.lineWidth = 1.5;
      for (const start of [-16, 0, 16]) {
        context.beginPath();
        context.moveTo(start - 2, 18);
        context.lineTo(start + 18, -2);
        context.stroke();
      }
    }
    this[name] = this.context.createPattern(tile, "repeat");
    return this[name] ?? this.colours.paper;
  }
}

/** What lies over the picture and never is part of it: the brush, a shape that is being drawn, the frame. */
export interface Marks {
  view: View;
  /** In pixels of the document. */
  cursor: { at: Point; size: number | null; isKeyboard: boolean } | null;
  outline: { points: readonly Point[]; closed: boolean } | null;
  box: { rect: Rect; round: boolean } | null;
  frame: { rect: Rect; grasped: Handle | null } | null;
}

export function drawMarks(
  canvas: HTMLCanvasElement,
  screen: Size,
  ratio: number,
  marks: Marks,
  accent: string,
): void {
  const [width, height] = [Math.round(screen.width * ratio), Math.round(screen.height * ratio)];
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext("2d");
  if (context === null) return;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  // White and black side by side are seen on every picture.
  const twice = (path: () => void, dashed = false): void => {
    for (const [colour, wide] of [
      ["rgb(0 0 0 / 75%)", 3],
      ["#fff", 1.25],
    ] as const) {
      context.beginPath();
      path();
      context.setLineDash(dashed && wide < 2 ? [5, 4] : []);
      context.strokeStyle = colour;
      context.lineWidth = wide;
      context.stroke();
    }
  };
  const { view } = marks;
  if (marks.frame !== null) {
    const rect = rectToScreen(view, marks.frame.rect);
    twice(() => context.rect(rect.x, rect.y, rect.w, rect.h), true);
    for (const [fx, fy] of [
      [0, 0],
      [0.5, 0],
      [1, 0],
      [0, 0.5],
      [1, 0.5],
      [0, 1],
      [0.5, 1],
      [1, 1],
    ] as const) {
      const [x, y] = [rect.x + fx * rect.w, rect.y + fy * rect.h];
      context.setLineDash([]);
      context.beginPath();
      context.roundRect(x - 6, y - 6, 12, 12, 3);
      context.fillStyle = accent;
      context.fill();
      context.strokeStyle = "#fff";
      context.lineWidth = 2;
      context.stroke();
    }
  }
  if (marks.box !== null) {
    const { rect, round } = marks.box;
    const at = toScreen(view, rect);
    const [w, h] = [rect.w * view.scale, rect.h * view.scale];
    twice(
      () =>
        round
          ? context.ellipse(at.x + w / 2, at.y + h / 2, w / 2, h / 2, 0, 0, 2 * Math.PI)
          : context.rect(at.x, at.y, w, h),
      true,
    );
  }
  if (marks.outline !== null) {
    const { points, closed } = marks.outline;
    twice(() => {
      points.forEach((point, i) => {
        const at = toScreen(view, point);
        if (i === 0) context.moveTo(at.x, at.y);
        else context.lineTo(at.x, at.y);
      });
      if (closed) context.closePath();
    }, true);
  }
  if (marks.cursor !== null) {
    const { at, size, isKeyboard } = marks.cursor;
    const centre = toScreen(view, at);
    if (size !== null && size * view.scale > 3) {
      twice(() => context.arc(centre.x, centre.y, (size / 2) * view.scale, 0, 2 * Math.PI));
    }
    if (isKeyboard || size === null || size * view.scale <= 8) {
      twice(() => {
        for (const [dx, dy] of [
          [1, 0],
          [-1, 0],
          [0, 1],
          [0, -1],
        ] as const) {
          context.moveTo(centre.x + 4 * dx, centre.y + 4 * dy);
          context.lineTo(centre.x + 11 * dx, centre.y + 11 * dy);
        }
      });
    }
  }
}

/** Gathers what changed until the next frame. */
export class Damage {
  private rects: Rect[] = [];
  private all = false;
  private asked = 0;

  /** `draw` is told the parts of the document that changed; null stands for everything. */
  constructor(private readonly draw: (parts: (Rect | null)[]) => void) {}

  add(part: Rect | null): void {
    if (part === null) this.all = true;
    else this.rects.push(part);
    if (this.asked === 0) this.asked = requestAnimationFrame(() => this.now());
  }

  now(): void {
    cancelAnimationFrame(this.asked);
    this.asked = 0;
    if (!this.all && this.rects.length === 0) return;
    const parts = this.all ? [null] : joined(this.rects);
    this.all = false;
    this.rects = [];
    this.draw(parts);
  }

  stop(): void {
    cancelAnimationFrame(this.asked);
    this.asked = 0;
  }
}
