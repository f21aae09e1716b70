// All that the view works with: the document, the tools, how to draw, the candidates, and what was said.

import { api, bytes, data, Problem, upload, type Model } from "../api";
import { uuid } from "../api/unique";
import { jobs } from "../state/jobs.svelte";
import { tell, tellError } from "../state/notices.svelte";
import { server } from "../state/server.svelte";
import { changed } from "../state/tabs";
import { say as announce } from "../shell/live.svelte";
import { go, here } from "../shell/routes";
import { change as text } from "../text/change";
import { backgroundOf, filled } from "./cutting";
import { Easel, newLayer } from "./easel.svelte";
import { frameOf, isCrop, mapFrame, type FrameProblem, type Mapped, type Sides } from "./frame";
import { whole, type Rect, type Size } from "./geometry";
import { hints } from "./hints";
import {
  copyId,
  inTurn,
  keptLayer,
  layerOf,
  pictureOf,
  pngOf,
  read,
  VERSION,
  write,
  type KeptDocument,
  type PngCache,
} from "./keep";
import { NO_CONTROL, Pixels, type HintLayer, type Layer } from "./layers";
import {
  bounds,
  feather,
  framed,
  growBy,
  invert,
  share,
  type Brush,
  type Mask,
  type Mode as PaintMode,
} from "./mask";
import { encodePng, withoutAlpha } from "./png";
import { bodyOf, settingsOf, startSettings, usualStrength, type Mode, type Settings } from "./request";
import { say, type Said } from "./say";
import { decoded, Staging, type Candidate, type Staged } from "./staging.svelte";
import { blended, looked } from "./tone";

export type Tool =
  "hand" | "brush" | "eraser" | "paint" | "rectangle" | "ellipse" | "lasso" | "fill" | "colour" | "frame";
export type Tab = Mode;

/** One sentence and what came of it. */
export interface Turn {
  sentence: string;
  said: Said;
  job: string | null;
}

const MAX_SIDE = 4096;

/** What a sentence changes. */
interface Basis {
  candidate: Candidate | null;
  /** Where it lies, in pixels of the document. */
  frame: Rect;
  prompt: string;
  negative: string;
  loras: readonly { name: string }[];
  strength: number | undefined;
}

/** What the browser keeps of the document, as far as this tab knows. */
interface Version {
  id: string;
  /** Of the version that was read or written last; undefined for none. */
  stamp: string | undefined;
  /** What was here then. */
  signature: string;
}

interface Covered {
  share: number;
  bounds: Rect;
}

export class Desk {
  readonly easel = new Easel();
  readonly staging = new Staging();
  /** What the address calls the picture; null: nothing is open. */
  id = $state<string | null>(null);
  settings = $state<Settings>(startSettings());
  tab = $state<Tab>("part");
  tool = $state<Tool>("brush");
  brush = $state<Brush>({ size: 40, hardness: 0.9, level: 255 });
  paintMode = $state<PaintMode>("add");
  /** What the tool "paint" paints with, as in CSS. */
  colour = $state("#d6453d");
  tolerance = $state(32);
  frame = $state.raw<Rect | null>(null);
  turns = $state.raw<Turn[]>([]);
  /** What is on its way to the server. */
  sending = $state(false);
  private lastCovered: (Covered & { stamp: number; layers: readonly Layer[] }) | null = null;
  private cache: PngCache = new WeakMap();
  private saving: ReturnType<typeof setTimeout> | undefined;
  /** A stroke is under way. */
  isPainting = false;
  private version: Version = { id: "", stamp: undefined, signature: "" };

  get model(): Model | undefined {
    return server.model(this.settings.model) ?? server.models[0];
  }

  /** How much the visible masks cover, and where. */
  covered(): Covered {
    const { stamp, layers } = this.easel;
    if (this.lastCovered?.stamp !== stamp || this.lastCovered.layers !== layers) {
      const mask = this.easel.mask();
      this.lastCovered = { stamp, layers, share: share(mask), bounds: bounds(mask) };
    }
    return this.lastCovered;
  }

  invert(): void {
    if (this.easel.changeAll(text.invert, invert)) this.keepSoon();
  }

  /** What the frame asks for. */
  get mapped(): Mapped | FrameProblem {
    const multiple = this.model?.defaults.size_multiple ?? 8;
    return mapFrame(this.easel.size, this.frame ?? whole(this.easel.size), multiple);
  }

  get isCrop(): boolean {
    return this.frame !== null && isCrop(this.easel.size, this.frame);
  }

  // ---- opening -------------------------------------------------------------------------------------------------------

  /** Open a picture of the server by its id, or an upload as `asset:ID`. What was kept of it is put back. */
  async open(id: string): Promise<void> {
    void this.keep().catch(() => undefined);
    const kept = await inTurn(() => read(id)).catch(() => null);
    if (kept !== null) {
      await this.putBack(kept);
      return;
    }
    const from = pictureOf(id);
    const asset = /^asset:(.+)$/.exec(from)?.[1];
    const path = asset !== undefined ? `/v1/assets/${asset}/content` : `/v1/images/${from}`;
    const picture = await decoded(await bytes(path));
    if (asset === undefined) {
      const found = await data(api.GET("/v1/images/{id}/metadata", { params: { path: { id: from } } }));
      const recipe = found.recipe as Parameters<typeof settingsOf>[0];
      Object.assign(
        this.settings,
        startSettings(),
        settingsOf(recipe, (name) => server.model(name) !== undefined),
      );
    } else Object.assign(this.settings, startSettings());
    this.begin(id, picture);
  }

  private begin(id: string, picture: ImageBitmap): void {
    const shrink = Math.min(MAX_SIDE / Math.max(picture.width, picture.height), 1);
    const size = { width: Math.round(picture.width * shrink), height: Math.round(picture.height * shrink) };
    this.staging.clear();
    this.turns = [];
    this.frame = null;
    this.brush.size = Math.min(Math.max(Math.round(Math.min(size.width, size.height) / 7), 4), 200);
    this.easel.open(Pixels.of(picture, size), { picture: text.thePicture, mask: text.theMask });
    if (shrink < 1) tell(text.shrunk(sizeText(size)));
    picture.close();
    this.id = id;
    this.version = { id, stamp: undefined, signature: this.signature() };
  }

  close(): void {
    void this.keep().catch(() => undefined);
    this.version = { id: "", stamp: undefined, signature: "" };
    this.id = null;
    this.staging.clear();
    this.turns = [];
    this.frame = null;
    this.easel.restore({ width: 0, height: 0 }, { x: 0, y: 0 }, [], "");
  }

  /** A file of the user: it is uploaded first, so that it is upright and in sRGB. Returns what `open` takes. */
  async import(file: Blob, name: string): Promise<string> {
    return `asset:${(await upload(file, name)).id}`;
  }

  // ---- keeping -------------------------------------------------------------------------------------------------------

  keepSoon(): void {
    clearTimeout(this.saving);
    if (this.id === null) return;
    this.saving = setTimeout(() => {
      if (this.isPainting) this.keepSoon();
      else void this.keep().catch(() => undefined);
    }, 800);
  }

  /** What is here, in short: other than before, if something was changed. */
  private signature(): string {
    const { easel, staging, settings, turns } = this;
    const staged = staging.staged.map(({ job, dismissed }) => [job, dismissed]);
    return JSON.stringify([easel.stamp, staged, settings, turns.length], (_, one: unknown) =>
      typeof one === "bigint" ? String(one) : one,
    );
  }

  /** Whether something was changed here since it was kept, or read. */
  private get isChanged(): boolean {
    return this.isPainting || this.signature() !== this.version.signature;
  }

  /** All that is kept, as it is now. */
  private taken() {
    const { easel, staging } = this;
    return {
      signature: this.signature(),
      layers: easel.layers,
      staged: staging.staged,
      base: {
        version: VERSION,
        at: Date.now(),
        size: easel.size,
        origin: { ...easel.origin },
        active: easel.active,
        settings: $state.snapshot(this.settings) as Settings,
        turns: $state.snapshot(this.turns),
      },
    };
  }

  /** Keep what is here in the browser. Where another tab has changed the same picture meanwhile, both are kept: this one
   * goes on as a copy. */
  async keep(): Promise<void> {
    const { cache, version } = this;
    if (this.id === null || this.easel.isEmpty) return;
    const before = this.taken();
    await inTurn(async () => {
      const { base, layers, signature, staged } = this.version === version ? this.taken() : before;
      const isChanged = signature !== version.signature;
      if (!isChanged && version.stamp === undefined) return; // it was looked at, no more
      const document: KeptDocument = {
        ...base,
        id: version.id,
        stamp: isChanged ? uuid() : version.stamp,
        layers: await Promise.all(layers.map((one) => keptLayer(one, cache))),
        staged: await Promise.all(
          staged.map(async ({ before, ...one }) => ({
            ...($state.snapshot(one) as typeof one), // what is reactive cannot be written down
            before: before === null ? null : await pngOf(before, cache),
          })),
        ),
      };
      if (!(await write(document, version.stamp))) {
        if (!isChanged) return;
        document.id = copyId(version.id);
        await write(document, undefined);
        if (this.version === version) this.goOnAs(document.id);
      }
      Object.assign(version, { id: document.id, stamp: document.stamp, signature });
      if (isChanged) changed("canvas");
    });
  }

  private goOnAs(id: string): void {
    this.id = id;
    if (here.view === "change") go(`#/change/${encodeURIComponent(id)}`, { replace: true });
    tell(text.bothKept, undefined, 600);
  }

  /** Another tab has kept something: where that is this picture, and nothing was changed here meanwhile, it is shown. */
  async follow(): Promise<void> {
    const { version } = this;
    if (this.id === null || this.isChanged) return;
    const kept = await inTurn(() => read(version.id)).catch(() => null);
    if (kept === null || kept.stamp === version.stamp) return;
    await this.putBack(kept, () => this.version === version && !this.isChanged);
  }

  /** Show a document as it was kept. `isWanted`: it takes the place of an older version of it, if that is wanted still. */
  private async putBack(kept: KeptDocument, isWanted?: () => boolean): Promise<void> {
    const layers = await Promise.all(kept.layers.map((one) => layerOf(one, kept.size, decoded)));
    const befores = await Promise.all(kept.staged.map((one) => one.before && decoded(one.before)));
    const gone = new Set<string>();
    for (const { job } of kept.staged) await jobs.fetch(job).catch(() => gone.add(job));
    if (isWanted !== undefined && !isWanted()) return;
    Object.assign(this.settings, startSettings(), kept.settings);
    this.turns = kept.turns as Turn[];
    this.frame = null;
    this.staging.clear();
    if (isWanted === undefined) {
      const side = Math.min(kept.size.width, kept.size.height);
      this.brush.size = Math.min(Math.max(Math.round(side / 7), 4), 200);
      this.easel.restore(kept.size, kept.origin, layers, kept.active);
    } else this.easel.replace(kept.size, kept.origin, layers, kept.active, text.otherTab);
    kept.staged.forEach((one, at) => {
      if (gone.has(one.job)) return;
      const before = befores[at] ?? null;
      this.staging.add({
        ...one,
        mode: one.mode as Staged["mode"],
        before: before === null ? null : Pixels.of(before, before),
      });
    });
    const known = new Set(kept.staged.map((one) => one.job));
    for (const { job } of [...jobs.list].reverse()) {
      const metadata = job.metadata as {
        canvas?: unknown;
        staged?: Omit<Staged, "job" | "before" | "dismissed">;
      };
      if (metadata.canvas !== kept.id || metadata.staged === undefined || known.has(job.id)) continue;
      if (Date.parse(job.created_at) < kept.at) continue; // it was thrown away, or kept
      this.staging.add({ ...metadata.staged, job: job.id, before: null, dismissed: [] });
    }
    this.id = kept.id;
    this.version = { id: kept.id, stamp: kept.stamp, signature: this.signature() };
  }

  /** Hints that are followed. */
  get steering(): HintLayer[] {
    return this.easel.layers.filter(
      (one): one is HintLayer => one.kind === "hint" && one.visible && one.control.model !== "",
    );
  }

  // ---- drawing -------------------------------------------------------------------------------------------------------

  /** Whether there is something to draw; else why not. */
  get why(): string | null {
    if (this.easel.isEmpty || this.model === undefined) return text.nothingOpen;
    if (this.settings.prompt.trim() === "") return text.noPrompt;
    if (this.tab === "part" && this.easel.masks.every((one) => !one.visible)) return text.noMask;
    if (this.tab === "guide" && this.steering.length === 0) return text.noHintYet;
    if (this.tab === "extend") {
      const mapped = this.mapped;
      if (mapped === "unchanged") return text.frameUnchanged;
      if (mapped === "outside") return text.frameOutside;
      if (mapped === "too-large") return text.frameTooLarge(MAX_SIDE);
      if (this.isCrop) return text.frameCrops;
    }
    return null;
  }

  async draw(): Promise<void> {
    const mode: Mode = this.tab;
    await this.sent(async () => {
      const picture = this.easel.flattened();
      if (mode === "part") {
        const mask = this.easel.mask();
        if (share(mask) === 0) throw new Problem({ code: "empty_mask", detail: text.emptyMask });
        await this.submit(mode, picture, whole(this.easel.size), { mask });
      } else if (mode === "extend") {
        const mapped = this.mapped;
        if (typeof mapped === "string") return;
        await this.submit(mode, picture.framed(mapped.crop), mapped.frame, { mapped });
      } else await this.submit(mode, picture, whole(this.easel.size), {});
    });
  }

  private async sent(work: () => Promise<void>): Promise<void> {
    if (this.sending) return;
    this.sending = true;
    try {
      await work();
    } catch (error) {
      tellError(text.notDrawn, error);
    } finally {
      this.sending = false;
    }
  }

  /** Submit a job whose pictures become candidates in a frame of the document. */
  private async submit(
    mode: Mode,
    picture: Pixels,
    frame: Rect,
    given: { mask?: Mask; mapped?: Mapped; settings?: Settings; sentence?: string },
  ): Promise<string> {
    const { easel, model } = this;
    if (model === undefined) throw new Problem({ code: "no_model", detail: text.nothingOpen });
    const settings = given.settings ?? ($state.snapshot(this.settings) as Settings);
    const image = await uploadPicture(picture);
    const mask = given.mask === undefined ? null : await uploadMask(given.mask);
    const steering = this.steering;
    const hintIds = [];
    for (const one of steering) hintIds.push(await this.hintAsset(one, frame));
    const body = bodyOf({
      mode,
      settings: { ...settings, model: model.name },
      model,
      size: picture,
      borders: given.mapped?.borders ?? null,
      assets: { image, mask, hints: hintIds },
      controls: steering.map(({ control }) => ({
        model: control.model,
        weight: control.weight,
        start: control.start,
        end: control.end,
      })),
    });
    const origin = easel.origin;
    const staged = {
      mode: given.sentence === undefined ? mode : ("say" as const),
      frame: { ...frame, x: frame.x + origin.x, y: frame.y + origin.y },
      count: settings.count,
      sentence: given.sentence ?? null,
    };
    // The server also remembers what the job is for: a page that is closed at once finds its suggestions again.
    body.metadata = { canvas: this.id, staged } as never;
    const job = await jobs.submit(body);
    this.staging.await({
      ...staged,
      job: job.id,
      before: mode === "part" && given.sentence === undefined ? picture : null,
      dismissed: [],
    });
    this.keepSoon();
    return job.id;
  }

  private async hintAsset(layer: HintLayer, frame: Rect): Promise<string> {
    const isWhole =
      frame.x === 0 && frame.y === 0 && frame.w === this.easel.width && frame.h === this.easel.height;
    if (isWhole && layer.control.asset !== null) return layer.control.asset;
    const framed = layer.pixels.framed(frame);
    // What a hint does not cover says nothing: black, as in the hints themselves.
    const dark = Pixels.empty(framed);
    dark.context.fillRect(0, 0, framed.width, framed.height);
    dark.context.drawImage(framed.canvas, 0, 0);
    const id = await uploadPicture(dark);
    if (isWhole) this.easel.steer(layer.id, { asset: id });
    return id;
  }

  // ---- candidates ----------------------------------------------------------------------------------------------------

  /** Put a candidate on the canvas for good: a layer of its own, which can be undone. */
  async accept(candidate: Candidate): Promise<void> {
    try {
      const pixels = await this.staging.load(candidate);
      const { easel } = this;
      const frame = this.staging.frameOf(candidate.staged, easel);
      const seed = candidate.job?.outputs.find((one) => one.index === candidate.index)?.seed;
      const name = text.change(
        String(easel.layers.filter((one) => one.kind === "picture").length),
        String(seed ?? ""),
      );
      if (
        candidate.staged.mode === "extend" ||
        frame.w !== easel.width ||
        frame.h !== easel.height ||
        frame.x !== 0 ||
        frame.y !== 0
      ) {
        easel.reframe(frame, text.accepted, [newLayer("picture", name, pixels)]);
        this.frame = null;
      } else easel.accept(newLayer("picture", name, pixels), text.accepted);
      const request = candidate.job?.request;
      if (candidate.staged.mode === "say" && request !== undefined) {
        // The prompt says what the picture shows, for what is changed next.
        this.settings.prompt = request.prompt ?? this.settings.prompt;
        this.settings.negative = request.negative_prompt ?? "";
        if (request.loras && request.loras.length > 0) this.settings.rest.loras = request.loras;
        else delete this.settings.rest.loras;
      }
      this.staging.dismiss(candidate);
      this.staging.choose(null);
      announce(text.acceptedSaid, true);
    } catch (error) {
      tellError(text.notLoaded, error);
    }
  }

  /** Cut the document to the frame: needs no model. */
  crop(): void {
    if (this.frame === null || !this.isCrop) return;
    this.easel.reframe(this.frame, text.cropped);
    this.frame = null;
  }

  // ---- saying --------------------------------------------------------------------------------------------------------

  /** What a sentence is about: the suggestion that is looked at, or else the picture as it was kept. */
  get basis(): Basis {
    const { easel, staging, settings } = this;
    const candidate = staging.current;
    const request = candidate?.job?.request;
    if (candidate === null || request === undefined || candidate.path === null) {
      const { prompt, negative, rest } = settings;
      const strength = settings.strength.whole ?? undefined;
      return {
        candidate: null,
        frame: whole(easel.size),
        prompt,
        negative,
        loras: rest.loras ?? [],
        strength,
      };
    }
    return {
      candidate,
      frame: staging.frameOf(candidate.staged, easel),
      prompt: request.prompt ?? settings.prompt,
      negative: request.negative_prompt ?? "",
      loras: request.loras ?? [],
      strength: request.source?.strength ?? undefined,
    };
  }

  /** What a sentence would do, told while it is typed. */
  read(sentence: string): Said {
    const family = this.model?.family;
    const { prompt, negative, strength } = this.basis;
    const loras = server.adapters
      .filter((one) => one.kind === "lora" && one.family === family)
      .map((one) => one.name);
    return say(sentence, { prompt, negative, loras, ...(strength === undefined ? {} : { strength }) });
  }

  /** Do what a sentence says, to what is looked at. What comes of it are suggestions, like all else; the prompt becomes
   * theirs when one is kept. Returns whether anything was understood and done. */
  async say(sentence: string, onlyPart: boolean): Promise<boolean> {
    const said = this.read(sentence);
    const turn: Turn = { sentence, said, job: null };
    if (said.parts.length === 0) {
      this.turns = [...this.turns, turn];
      return false;
    }
    if (said.parts.some((one) => one.kind === "undo")) {
      if (this.staging.chosen !== null) this.staging.choose(null);
      else this.easel.undo();
      this.turns = [...this.turns, turn];
      return true;
    }
    const { basis } = this;
    let done = false;
    await this.sent(async () => {
      const isAgain = said.parts.every((one) => one.kind === "again");
      const job =
        isAgain && basis.candidate !== null
          ? await this.again(basis.candidate, sentence)
          : await this.submitSaid(said, basis, sentence, { isAgain, onlyPart });
      this.turns = [...this.turns, { ...turn, job }];
      done = true;
    });
    return done;
  }

  /** The job of a suggestion once more, with another seed. */
  private async again(candidate: Candidate, sentence: string): Promise<string> {
    const { job, staged } = candidate;
    if (job === null) throw new Problem({ code: "no_job", detail: text.notLoaded });
    const { mode, frame } = staged;
    const told = { mode, frame, count: this.settings.count, sentence };
    const request = { ...job.request, seed: null, num_images: this.settings.count };
    const metadata = { canvas: this.id, staged: told } as never;
    const next = await jobs.submit({ model: job.model, request, assets: job.assets, metadata });
    this.staging.await({ ...told, job: next.id, before: staged.before, dismissed: [] });
    this.keepSoon();
    return next.id;
  }

  private async submitSaid(
    said: Said,
    basis: Basis,
    sentence: string,
    { isAgain, onlyPart }: { isAgain: boolean; onlyPart: boolean },
  ): Promise<string> {
    const { easel } = this;
    const settings = $state.snapshot(this.settings) as Settings;
    settings.prompt = said.prompt;
    settings.negative = said.negative;
    settings.seed = null;
    const loras = [
      ...basis.loras.filter((one) => !said.loras.includes(one.name)),
      ...said.loras.map((name) => ({ name, weight: 1 })),
    ];
    if (loras.length > 0) settings.rest.loras = loras as never;
    else delete settings.rest.loras;
    if (said.steps !== 1 && this.model !== undefined) {
      const steps = settings.num_steps ?? this.model.defaults.num_steps;
      settings.num_steps = Math.min(Math.round(steps * said.steps), 1000);
    }
    const { frame } = basis;
    const size = { width: frame.w, height: frame.h };
    const seen = easel.flattened().framed(frame);
    if (basis.candidate !== null) {
      seen.context.drawImage((await this.staging.load(basis.candidate)).canvas, 0, 0);
    }
    if (said.extend !== null && said.looks.length === 0) {
      const sides = said.extend.map((percent, i) =>
        Math.round((percent / 100) * (i % 2 === 0 ? size.width : size.height)),
      ) as Sides;
      const mapped = mapFrame(size, frameOf(size, sides), this.model?.defaults.size_multiple ?? 8);
      if (typeof mapped === "string") {
        throw new Problem({ code: mapped, detail: text.frameTooLarge(MAX_SIDE) });
      }
      const place = { ...mapped.frame, x: mapped.frame.x + frame.x, y: mapped.frame.y + frame.y };
      return await this.submit("extend", seen.framed(mapped.crop), place, { mapped, settings, sentence });
    }
    const mask = onlyPart ? framed(easel.mask(), frame) : null;
    let source = seen;
    if (said.looks.length > 0) {
      const was = seen.data();
      const now = looked(was, size, said.looks);
      source = Pixels.ofData(mask === null ? now : blended(was, now, mask), size);
    }
    const mode: Mode = onlyPart ? "part" : "whole";
    const usual = settings.strength[mode] ?? usualStrength(mode, this.model?.family ?? "");
    settings.strength = { ...settings.strength, [mode]: isAgain ? usual : said.strength };
    return await this.submit(mode, source, frame, {
      settings,
      sentence,
      ...(mask === null ? {} : { mask }),
    });
  }

  // ---- hints ---------------------------------------------------------------------------------------------------------

  /** Have a hint made of the picture as it is, and show it as a layer; nothing is drawn yet. */
  async makeHint(preprocessor: string, parameters: Record<string, number>, model: string): Promise<boolean> {
    let done = false;
    await this.sent(async () => {
      const { easel } = this;
      const image = await uploadPicture(easel.flattened());
      const size = { width: easel.width, height: easel.height };
      const made =
        preprocessor === ""
          ? { id: image, content_url: `/v1/assets/${image}/content` }
          : await hints.make({ preprocessor, image, mask: null, ...size, parameters });
      const picture = await decoded(await bytes(made.content_url));
      const layer = newLayer("hint", text.hintOf(preprocessor || text.asItIs), Pixels.of(picture, size));
      picture.close();
      if (layer.kind === "hint") {
        layer.control = { ...NO_CONTROL, model, preprocessor, asset: made.id };
      }
      easel.add(layer, text.hintMade);
      done = true;
    });
    return done;
  }

  // ---- one press -----------------------------------------------------------------------------------------------------

  /** Mask what lies behind the object, or the object. Says so where the background is not plain. */
  select(what: "background" | "object"): void {
    const found = backgroundOf(this.easel.flattened().data(), this.easel.size);
    if (found === null) {
      tell(text.notPlain);
      return;
    }
    if (what === "object") invert(found);
    const done = this.easel.changeAll(text[what], (mask) => {
      mask.data.set(found.data);
      return whole(mask);
    });
    if (done) this.keepSoon();
    else tell(text.locked);
  }

  /** Fill what is masked from what is around it, as a layer of its own. Needs no model. */
  erase(): void {
    const { easel } = this;
    const mask = easel.mask();
    if (share(mask) === 0) {
      tell(text.emptyMask);
      return;
    }
    growBy(mask, Math.max(2, Math.round(Math.min(easel.width, easel.height) / 64))); // its soft edge goes, too
    const pixels = Pixels.ofData(filled(easel.flattened().data(), mask), easel.size);
    easel.accept(newLayer("picture", text.erased, pixels), text.erase);
    this.keepSoon();
    announce(text.erased, true);
  }

  /** The visible pictures as a file. `cut`: clear where the mask is. */
  async download(cut = false): Promise<void> {
    const pixels = this.easel.flattened();
    const { width, height } = pixels;
    const levels = pixels.data();
    if (cut) {
      const mask = this.easel.mask();
      feather(mask, 1.5);
      mask.data.forEach((level, at) => (levels[4 * at + 3] = 255 - level));
    }
    const file = await encodePng(width, height, cut ? 4 : 3, cut ? levels : withoutAlpha(levels));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `gesso-${(this.id ?? "picture").replace(/[^\w-]/g, "-").slice(-12)}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    tell(text.downloaded);
  }
}

/** Uploads a picture with exactly the levels that it has. Returns the id. */
export async function uploadPicture(pixels: Pixels): Promise<string> {
  const file = await encodePng(pixels.width, pixels.height, 3, withoutAlpha(pixels.data()));
  return (await upload(file, "picture.png")).id;
}

/** Uploads a mask with exactly the levels that were painted. Returns the id. */
export async function uploadMask(mask: Mask): Promise<string> {
  const file = await encodePng(mask.width, mask.height, 1, mask.data);
  return (await upload(file, "mask.png")).id;
}

export const sizeText = (size: Size): string => `${size.width} × ${size.height}`;
