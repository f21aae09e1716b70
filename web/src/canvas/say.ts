// A small grammar for changes in plain words: "make it night", "more to the left", "replace the car with a bus".
// It is deterministic and knows what it knows: every clause is either understood, and says as what, or left over.

import type { Sides } from "./frame";
import type { Look, ToneName } from "./tone";

export type Direction = "left" | "right" | "up" | "down";

/** One thing that was understood; `words` are the words it was understood from. */
export type Part = { words: string } & (
  | { kind: "again" }
  | { kind: "undo" }
  | { kind: "shift"; direction: Direction; percent: number }
  | { kind: "scale"; percent: number }
  | { kind: "mirror"; axis: "x" | "y" }
  | { kind: "extend"; sides: Sides } // percent of the picture
  | { kind: "tone"; name: ToneName; phrase: string } // phrase: added to the prompt, or ""
  | { kind: "time"; phrase: string }
  | { kind: "colour"; colour: string; noun: string }
  | { kind: "background"; to: string }
  | { kind: "replace"; from: string; to: string }
  | { kind: "remove"; what: string }
  | { kind: "add"; what: string }
  | { kind: "count"; number: string }
  | { kind: "style"; style: string; lora: string | null }
  | { kind: "strength"; direction: "less" | "more" }
  | { kind: "detail" }
  | { kind: "prompt"; text: string } // a whole new description
  | { kind: "loose"; phrase: string } // "make it X": X is put into the prompt as it is
);

/** Why a clause was left over: nothing fits, or it names what the prompt does not have. */
export interface Left {
  words: string;
  why: "unknown" | "not-in-prompt";
}

export interface Said {
  parts: Part[];
  left: Left[];
  prompt: string;
  negative: string;
  /** How much is redrawn, 0 to 1. */
  strength: number;
  /** Changes of the picture's pixels before it is drawn from. */
  looks: Look[];
  /** Borders in percent of the picture's sides; null: none. */
  extend: Sides | null;
  loras: string[];
  /** Factor of the number of steps. */
  steps: number;
}

export interface Knows {
  prompt: string;
  negative: string;
  /** Names of LoRA that the model can use, for styles. */
  loras?: readonly string[];
  /** The strength of the last change, which "less" and "more" go by. */
  strength?: number;
}

const forms = (stem: string): string[] => ["", "e", "er", "es", "en", "em"].map((end) => stem + end);
const COLOURS: Record<string, string[]> = {
  red: forms("rot"),
  orange: forms("orangefarben"),
  yellow: forms("gelb"),
  green: forms("grün"),
  blue: forms("blau"),
  purple: ["violet", "lila", ...forms("violett")],
  pink: ["rosa", ...forms("pinkfarben")],
  brown: forms("braun"),
  white: forms("weiß"),
  grey: ["gray", ...forms("grau")],
  black: forms("schwarz"),
  gold: ["golden", ...forms("golden")],
  silver: [...forms("silbern")],
  turquoise: forms("türkis"),
  beige: [],
};
const COLOUR_OF = new Map<string, string>();
for (const [colour, others] of Object.entries(COLOURS)) {
  for (const word of [colour, ...others]) COLOUR_OF.set(word, colour);
}
const anyOf = (words: Iterable<string>): string => [...words].sort((a, b) => b.length - a.length).join("|");
const COLOUR = anyOf(COLOUR_OF.keys());

const DIRECTIONS: Record<string, Direction> = {
  left: "left",
  leftwards: "left",
  links: "left",
  right: "right",
  rightwards: "right",
  rechts: "right",
  up: "up",
  upwards: "up",
  higher: "up",
  top: "up",
  oben: "up",
  höher: "up",
  hoch: "up",
  down: "down",
  downwards: "down",
  lower: "down",
  bottom: "down",
  unten: "down",
  tiefer: "down",
};
const DIRECTION = anyOf(Object.keys(DIRECTIONS));

const TIMES: Record<string, { phrase: string; tone: ToneName | null; words: string[] }> = {
  night: {
    phrase: "at night",
    tone: "night",
    words: ["night", "nighttime", "night time", "midnight", "nacht", "nachts"],
  },
  day: {
    phrase: "by day",
    tone: "brighter",
    words: ["day", "daytime", "daylight", "noon", "tag", "tageslicht", "mittag"],
  },
  sunset: {
    phrase: "at sunset",
    tone: "warmer",
    words: ["sunset", "evening", "dusk", "golden hour", "abend", "abends", "sonnenuntergang"],
  },
  sunrise: {
    phrase: "at sunrise",
    tone: "warmer",
    words: ["sunrise", "morning", "dawn", "morgen", "sonnenaufgang"],
  },
  winter: {
    phrase: "in winter, snow",
    tone: "cooler",
    words: ["winter", "wintry", "snowy", "snow", "schnee"],
  },
  autumn: { phrase: "in autumn", tone: "warmer", words: ["autumn", "fall", "herbst"] },
  fog: { phrase: "in fog", tone: "softer", words: ["foggy", "fog", "misty", "mist", "nebel", "neblig"] },
  rain: { phrase: "in the rain", tone: "cooler", words: ["rainy", "rain", "regen", "regnerisch"] },
};
const TIME_OF = new Map(
  Object.values(TIMES).flatMap((time) => time.words.map((word) => [word, time] as const)),
);
const TIME_PHRASES = new RegExp(
  `,? *\\b(${anyOf(Object.values(TIMES).map((time) => time.phrase))})\\b`,
  "gi",
);

const TONES: Record<string, [ToneName, string]> = {
  ...of("darker", "", "darker", "dark", "dimmer", "dunkler", "dunkel"),
  ...of("brighter", "", "brighter", "bright", "lighter", "light", "heller", "hell"),
  ...of("warmer", "", "warmer", "warm", "wärmer"),
  ...of("cooler", "", "cooler", "cool", "colder", "cold", "kälter", "kühler"),
  ...of("contrast", "", "more contrast", "higher contrast", "more contrasty", "mehr kontrast"),
  ...of("softer", "", "less contrast", "lower contrast", "softer", "weniger kontrast", "weicher"),
  ...of(
    "vivid",
    "",
    "more colourful",
    "more colorful",
    "more vivid",
    "more saturated",
    "more colour",
    "more color",
  ),
  ...of("vivid", "", "colourful", "colorful", "vivid", "farbiger", "bunter", "mehr farbe"),
  ...of("pale", "", "less colourful", "less colorful", "less saturated", "paler", "pale", "muted", "blasser"),
  ...of(
    "grey",
    "in black and white",
    "black and white",
    "black-and-white",
    "monochrome",
    "grayscale",
    "greyscale",
  ),
  ...of(
    "grey",
    "in black and white",
    "schwarzweiß",
    "schwarz-weiß",
    "schwarz und weiß",
    "in black and white",
  ),
  ...of("sepia", "", "sepia", "in sepia"),
};
function of(name: ToneName, phrase: string, ...words: string[]): Record<string, [ToneName, string]> {
  return Object.fromEntries(words.map((word) => [word, [name, phrase]]));
}

const NUMBERS: Record<string, number> = {
  one: 1,
  two: 2,
  three: 3,
  four: 4,
  eins: 1,
  zwei: 2,
  drei: 3,
  vier: 4,
};
for (let n = 1; n <= 4; n++) NUMBERS[String(n)] = n;
const NUMBER_WORDS = ["", "one", "two", "three", "four"];

const ARTICLE = "(?:a|an|the|some|any|ein|eine|einen|einem|der|die|das|den|dem)";
const IT = "(?:it|this|that|them|everything|the picture|the image|the whole thing|es|das|alles|das bild)";

interface Clause {
  words: string; // as they were typed, for the echo
  text: string; // lower case, without politeness
  amount: number; // 1; "a bit" less, "much" more
  asked: boolean; // began with "make it" or the like
}

const AMOUNTS: [RegExp, number][] = [
  [
    /\b(a tiny bit|a little bit|a bit|a little|slightly|somewhat|ein bisschen|ein wenig|etwas|leicht|minimal)\b/,
    0.5,
  ],
  [/\b(much|a lot|lots|far|way|very|really|strongly|viel|deutlich|stark|sehr|ganz)\b/, 1.8],
];

function clauseOf(words: string): Clause {
  let text = words
    .toLowerCase()
    .replace(/[!?.…"“”„]+/g, " ")
    .replace(/\s+/g, " ")
    .trim();
  let amount = 1;
  let before: string;
  let asked = false;
  const strip = (pattern: RegExp): void => {
    text = text.replace(pattern, " ").replace(/\s+/g, " ").trim();
  };
  do {
    before = text;
    strip(/^(please|now|ok|okay|so|then|also|but|just|and|hey|bitte|jetzt|dann|und|auch|aber|nun)\b/);
    strip(/\b(please|bitte|too|though|instead|mal)$/);
    strip(/^(can|could|would|will) you\b/);
    strip(/^(kannst|könntest|würdest) du\b/);
    strip(/^(i want|i'd like|i would like|i need|let's|let us|ich möchte|ich will|ich hätte gern)( to)?\b/);
  } while (text !== before);
  for (const [pattern, factor] of AMOUNTS) {
    if (pattern.test(text)) {
      amount = factor;
      strip(pattern);
    }
  }
  const made = new RegExp(
    `^(?:make|let|turn|render|paint|mach|mache|lass|male|stell)\\s+${IT}\\s*(?:be|look|in|into|to|go|sein)?\\s+(?=\\S)|^${IT}\\s+(?:should|must|could|soll|sollte)\\s+(?:be|look|have)?\\s*`,
  );
  if (made.test(text) && !new RegExp(`^(?:turn)\\s+${IT}\\s+into\\b`).test(text)) {
    text = text.replace(made, "").trim();
    asked = true;
  }
  return { words: words.trim(), text, amount, asked };
}

/** A prompt in its pieces: "a picture of | a red car | on a yellow background | , comic". */
interface Pieces {
  opening: string;
  subject: string;
  background: string;
  rest: string;
}

const OPENING = /^((?:an? )?(?:picture|photo|image|drawing|painting|emoji|silhouette) of )/i;
const BACKGROUND = new RegExp(
  `\\s*,?\\s+(?:(?:on|against|in front of|with|before)\\s+(?:an?\\s+|the\\s+)?[\\w-]+(?: [\\w-]+)? background|on (?:${COLOUR}))\\b|,\\s*[\\w-]+ background\\b`,
  "i",
);

function piecesOf(prompt: string): Pieces {
  let left = prompt.trim();
  const opening = OPENING.exec(left)?.[0] ?? "";
  left = left.slice(opening.length);
  const background = BACKGROUND.exec(left)?.[0] ?? "";
  const at = background === "" ? -1 : left.indexOf(background);
  if (at >= 0) left = left.slice(0, at) + "\0" + left.slice(at + background.length);
  const comma = left.indexOf(",");
  const cut = Math.min(...[comma, left.indexOf("\0"), left.length].filter((place) => place >= 0));
  return { opening, subject: left.slice(0, cut), background, rest: left.slice(cut).replace("\0", "") };
}

function joined({ opening, subject, background, rest }: Pieces): string {
  return tidied(opening + subject + background + rest);
}

function tidied(text: string): string {
  return text
    .replace(/\s+/g, " ")
    .replace(/\s+,/g, ",")
    .replace(/,(\s*,)+/g, ",")
    .replace(/^[\s,]+|[\s,]+$/g, "")
    .replace(/\b(and|with|und|mit)\s*(?=,|$)/gi, "")
    .replace(/[\s,]+$/g, "");
}

const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const bare = (text: string): string => text.replace(new RegExp(`^${ARTICLE}\\s+`, "i"), "").trim();
const articled = (noun: string): string => {
  if (/^(an?|the|some|one|two|three|four|\d+)\s/i.test(noun)) return noun;
  return /s$/.test(noun) && !/ss$/.test(noun) ? noun : `${/^[aeio]/.test(noun) ? "an" : "a"} ${noun}`;
};
const inEnglish = (text: string): string =>
  text.replace(
    new RegExp(`\\b(${COLOUR})(?![\\wäöüß])`, "giu"),
    (word) => COLOUR_OF.get(word.toLowerCase()) ?? word,
  );

/** Where a noun phrase stands in a prompt, with the article and colour before it; plural or singular. */
function phraseOf(prompt: string, noun: string): RegExpExecArray | null {
  const stem = noun.replace(/(?:es|s)$/, "");
  for (const form of [noun, stem]) {
    if (form === "") continue;
    const found = new RegExp(
      `\\b((?:${ARTICLE}|one|two|three|four|\\d+)\\s+)?((?:${COLOUR})\\s+)?(${escaped(form)}(?:e?s)?)\\b`,
      "i",
    ).exec(prompt);
    if (found !== null) return found;
  }
  return null;
}

function plural(noun: string): string {
  if (/(?:s|x|ch|sh)$/.test(noun)) return /s$/.test(noun) && !/ss$/.test(noun) ? noun : noun + "es";
  return /[^aeiou]y$/.test(noun) ? noun.slice(0, -1) + "ies" : noun + "s";
}

/** What is being said, in the middle of being understood. */
class Reading {
  parts: Part[] = [];
  left: Left[] = [];
  looks: Look[] = [];
  extend: Sides | null = null;
  loras: string[] = [];
  steps = 1;
  needed = 0; // the strength that the parts need
  factor = 1;
  prompt: string;
  negative: string;

  constructor(readonly knows: Knows) {
    this.prompt = knows.prompt;
    this.negative = knows.negative;
  }

  need(strength: number): void {
    this.needed = Math.max(this.needed, strength);
  }

  append(phrase: string): void {
    if (phrase === "" || new RegExp(`\\b${escaped(phrase)}\\b`, "i").test(this.prompt)) return;
    this.prompt = tidied(`${this.prompt}, ${phrase}`);
  }
}

/** A place, which nobody asks for with "make it". */
const PLACE = /^(?:at|in|on|under|near|behind|beside|am|im|auf|unter|neben|hinter|vor)\s+\S/;

type Rule = (clause: Clause, reading: Reading) => boolean | "not-in-prompt";

const RULES: Rule[] = [
  function undo({ text, words }, reading) {
    if (
      !/^(undo|undo (that|it)|go back|take (that|it) back|zurück|rückgängig|mach das rückgängig)$/.test(text)
    )
      return false;
    reading.parts.push({ kind: "undo", words });
    return true;
  },

  function again({ text, words }, reading) {
    const pattern =
      /^((try )?(it )?again|another( one)?|once more|one more|something else|retry|nochmal|noch ?einmal|noch eins|anders)$/;
    if (!pattern.test(text)) return false;
    reading.parts.push({ kind: "again", words });
    return true;
  },

  function strength({ text, words }, reading) {
    const less =
      /^(change )?(less|not so much|more subtle|subtler|less change|less strongly|weniger|nicht so stark)$/;
    const more = /^(change (it )?)?(more|more change|stronger|more different|more strongly|mehr|stärker)$/;
    const direction = less.test(text) ? "less" : more.test(text) ? "more" : null;
    if (direction === null) return false;
    reading.factor *= direction === "less" ? 0.7 : 1.35;
    reading.need(reading.knows.strength ?? 0.5);
    reading.parts.push({ kind: "strength", direction, words });
    return true;
  },

  function extend({ text, words, amount }, reading) {
    const space = "(?:space|room|background|sky|ground|picture|platz|raum|hintergrund|himmel)";
    const sides = `(left|right|top|bottom|sides|both sides|all sides|above|below|around|links|rechts|oben|unten|ringsum|rundherum)`;
    const place = new RegExp(
      `^(?:(?:add|show|give (?:it|me)|leave|mehr|zeig)?\\s*(?:more )?${space}|show more|zeig mehr|extend(?: it)?|erweitere)\\s*(?:on|to|at|in|of|an der|auf der|am)?\\s*(?:the |its )?${sides}(?: of it| it| side)?$`,
    ).exec(text);
    const by = Math.round(25 * amount);
    let made: Sides | null = null;
    if (/^(wider|broader|breiter)$/.test(text)) made = [by, 0, by, 0];
    else if (/^(taller|höheres bild)$/.test(text)) made = [0, by, 0, by];
    else if (/^(more (space|room)|mehr platz|mehr raum)$/.test(text)) made = [by, by, by, by];
    else if (place !== null) {
      const side = place[1] as string;
      if (/^(left|links)$/.test(side)) made = [by, 0, 0, 0];
      else if (/^(right|rechts)$/.test(side)) made = [0, 0, by, 0];
      else if (/^(top|above|oben)$/.test(side)) made = [0, by, 0, 0];
      else if (/^(bottom|below|unten)$/.test(side)) made = [0, 0, 0, by];
      else if (/^(both )?sides$/.test(side)) made = [by, 0, by, 0];
      else made = [by, by, by, by];
    }
    if (made === null) return false;
    const old = reading.extend ?? [0, 0, 0, 0];
    reading.extend = old.map((side, i) => Math.max(side, (made as Sides)[i] as number)) as Sides;
    reading.parts.push({ kind: "extend", sides: made, words });
    return true;
  },

  function shift({ text, words, amount }, reading) {
    const found = new RegExp(
      `^(?:(?:move|shift|push|slide|put|verschiebe|schieb|rück)\\s+(${IT}|${ARTICLE}\\s+[\\wäöüß ]+?)\\s+)?(?:more |further |mehr |weiter )?(?:to |towards? |nach |zum )?(?:the )?(${DIRECTION})$`,
    ).exec(text);
    if (found === null) return false;
    const named = found[1];
    if (
      named !== undefined &&
      !new RegExp(`^${IT}$`).test(named) &&
      phraseOf(reading.prompt, bare(named)) === null
    ) {
      return "not-in-prompt";
    }
    const direction = DIRECTIONS[found[2] as string] as Direction;
    const by = 0.15 * amount;
    const sign = direction === "left" || direction === "up" ? -1 : 1;
    const across = direction === "left" || direction === "right";
    reading.looks.push({ op: "shift", x: across ? sign * by : 0, y: across ? 0 : sign * by });
    reading.need(0.45);
    reading.parts.push({ kind: "shift", direction, percent: Math.round(100 * by), words });
    return true;
  },

  function scale({ text, words, amount }, reading) {
    const pattern = (inner: string): RegExp =>
      new RegExp(`^(?:(?:make|mach) (?:${IT}|${ARTICLE} [\\wäöüß]+) )?(?:${inner})$`);
    const larger = pattern(
      "bigger|larger|closer|nearer|zoom in|enlarge(?: it)?|come closer|größer|näher|näher ran",
    );
    const smaller = pattern("smaller|further away|farther away|zoom out|shrink(?: it)?|kleiner|weiter weg");
    const sign = larger.test(text) ? 1 : smaller.test(text) ? -1 : 0;
    if (sign === 0) return false;
    const by = sign > 0 ? 1 + 0.25 * amount : 1 / (1 + 0.25 * amount);
    reading.looks.push({ op: "scale", by });
    reading.need(0.45);
    reading.parts.push({ kind: "scale", percent: Math.round(100 * by), words });
    return true;
  },

  function mirror({ text, words }, reading) {
    const upside = /^(flip( it)?( vertically| upside down)|upside down|auf den kopf|kopfüber)$/;
    const across =
      /^(mirror(ed)?( it)?|flip(ped)?( it)?( horizontally)?|the other way( round| around)?|spiegeln?|gespiegelt|spiegle es|andersherum)$/;
    const axis = upside.test(text) ? "y" : across.test(text) ? "x" : null;
    if (axis === null) return false;
    reading.looks.push({ op: "mirror", axis });
    reading.need(0.3);
    reading.parts.push({ kind: "mirror", axis, words });
    return true;
  },

  function detail({ text, words }, reading) {
    if (
      !/^((more|add|with more) details?|more detailed|sharper|finer|crisper|mehr details?|schärfer|feiner)$/.test(
        text,
      )
    ) {
      return false;
    }
    reading.steps = 1.5;
    reading.need(0.35);
    reading.parts.push({ kind: "detail", words });
    return true;
  },

  function time({ text, words, amount }, reading) {
    const word = text
      .replace(/^(at|by|in|during|bei|am|im|into|to)\s+(the\s+)?/, "")
      .replace(/^(a|an|the|zum|zur)\s+/, "");
    const time = TIME_OF.get(word.replace(/ (scene|time|light)$/, "")) ?? TIME_OF.get(word);
    if (time === undefined) return false;
    reading.prompt = tidied(reading.prompt.replace(TIME_PHRASES, ""));
    if (time.phrase === "at night") {
      // A coloured ground would go on shining through the night.
      const pieces = piecesOf(reading.prompt);
      if (new RegExp(`\\b(${COLOUR})\\b`, "i").test(pieces.background)) {
        reading.prompt = joined({ ...pieces, background: " on a black background" });
        reading.parts.push({ kind: "background", to: "black", words });
      }
    }
    reading.append(time.phrase);
    if (time.tone !== null) reading.looks.push({ op: "tone", name: time.tone, amount });
    reading.need(0.5);
    reading.parts.push({ kind: "time", phrase: time.phrase, words });
    return true;
  },

  function tone({ text, words, amount }, reading) {
    const row = TONES[text] ?? TONES[`more ${text}`];
    if (row === undefined) return false;
    const [name, phrase] = row;
    reading.looks.push({ op: "tone", name, amount });
    reading.append(phrase);
    reading.need(0.35);
    reading.parts.push({ kind: "tone", name, phrase, words });
    return true;
  },

  function style({ text, words }, reading) {
    const found =
      /^(?:as|like|in the style of|in|als|wie|im stil von)\s+(?:(?:a|an|the|ein|eine|einen)\s+)?(.+?)(?:[ -]style|[ -]stil)?$/.exec(
        text,
      ) ?? /^(?:a |an )?(.+?)[ -]style$/.exec(text);
    const named = reading.knows.loras?.find(
      (name) => name.toLowerCase() === text.replace(/^(a|an|ein|eine|einen) /, ""),
    );
    if (found === null && named === undefined) return false;
    const style = named ?? (found?.[1] as string);
    if (COLOUR_OF.has(style)) return false;
    const lora = named ?? reading.knows.loras?.find((name) => name.toLowerCase() === style) ?? null;
    if (lora !== null) reading.loras.push(lora);
    else reading.append(`${style} style`);
    reading.need(0.6);
    reading.parts.push({ kind: "style", style, lora, words });
    return true;
  },

  function background({ text, words }, reading) {
    const what = "(?:the |its |den |der |einem |einen )?(?:background|hintergrund)";
    const found =
      new RegExp(
        `^(?:change|make|set|turn|mach|mache|ändere)\\s+${what}\\s+(?:to |into |in |zu |auf )?(?:an? )?(.+)$`,
      ).exec(text) ??
      new RegExp(
        `^(?:with|on|against|in front of|auf|mit|vor)\\s+(?:an? |the |einem |einen )?(.+?)\\s+(?:background|hintergrund)$`,
      ).exec(text) ??
      /^(?:(?:an?|ein|eine|einen) )?((?:(?!on\b|with\b|against\b|auf\b|vor\b)\S+ ){1,2})(?:background|hintergrund)$/.exec(
        text,
      ) ??
      new RegExp(`^(?:background|hintergrund)\\s+(.+)$`).exec(text) ??
      new RegExp(`^on\\s+(${COLOUR})$`).exec(text);
    if (found === null || /^(remove|without|no|delete|more|mehr|ohne)\b/.test(text)) return false;
    const to = inEnglish(bare((found[1] as string).trim()));
    const pieces = piecesOf(reading.prompt);
    reading.prompt = joined({ ...pieces, background: ` on ${articled(to)} background` });
    reading.need(0.75);
    reading.parts.push({ kind: "background", to, words });
    return true;
  },

  function replace({ text, words }, reading) {
    const found =
      /^(?:replace|swap|exchange|substitute|ersetze|tausche)\s+(.+?)\s+(?:with|by|for|durch|gegen)\s+(.+)$/.exec(
        text,
      ) ?? /^(?:turn|change|transform|make|verwandle|mach)\s+(.+?)\s+(?:into|to|in|zu)\s+(.+)$/.exec(text);
    const other = /^(.+?)\s+(?:instead of|rather than|statt|anstelle von)\s+(.+)$/.exec(text);
    let from = found?.[1] ?? other?.[2];
    const to = found?.[2] ?? other?.[1];
    if (from === undefined || to === undefined) return false;
    from = bare(from);
    const target = articled(inEnglish(to));
    if (new RegExp(`^${IT}$`).test(from) || from === "picture") {
      const pieces = piecesOf(reading.prompt);
      reading.parts.push({ kind: "replace", from: pieces.subject.trim(), to: target, words });
      reading.prompt = joined({ ...pieces, subject: target });
      reading.need(0.8);
      return true;
    }
    const asColour = COLOUR_OF.get(bare(to));
    if (asColour !== undefined) return recoloured(reading, words, from, asColour);
    const place = phraseOf(reading.prompt, from);
    if (place === null) return "not-in-prompt";
    const start = place.index;
    reading.prompt = tidied(
      reading.prompt.slice(0, start) + target + reading.prompt.slice(start + place[0].length),
    );
    reading.need(0.8);
    reading.parts.push({ kind: "replace", from, to: target, words });
    return true;
  },

  function remove({ text, words }, reading) {
    const found =
      /^(?:remove|delete|erase|take away|take out|get rid of|lose|drop|without|no|entferne|lösche|ohne|kein|keine|keinen)\s+(?:the |any |all |den |die |das )?(.+?)(?: away)?$/.exec(
        text,
      );
    if (found === null) return false;
    const what = found[1] as string;
    if (/^(background|hintergrund)$/.test(what)) {
      const pieces = piecesOf(reading.prompt);
      reading.prompt = joined({ ...pieces, background: " on a white background" });
      reading.need(0.75);
      reading.parts.push({ kind: "background", to: "white", words });
      return true;
    }
    const place = phraseOf(reading.prompt, what);
    if (place !== null) {
      const before = reading.prompt
        .slice(0, place.index)
        .replace(/(?:\s*(?:,|and|with|next to|und|mit))?\s*$/i, "");
      const after = reading.prompt
        .slice(place.index + place[0].length)
        .replace(/^\s*(?:and|,)?\s*/i, before === "" ? "" : " ");
      reading.prompt = tidied(before + after);
    }
    reading.negative = tidied(reading.negative === "" ? what : `${reading.negative}, ${what}`);
    reading.need(0.7);
    reading.parts.push({ kind: "remove", what, words });
    return true;
  },

  function add({ text, words }, reading) {
    const given = /^give (?:the )?(?!it |him |her |them )([\w-]+) ((?:an?|some|two|three|four) .+)$/.exec(
      text,
    );
    if (given !== null && phraseOf(reading.prompt, given[1] as string) === null) return "not-in-prompt";
    const german = /^(?:füge|setze|gib)\s+(.+?)\s+(?:hinzu|dazu|ein)$/.exec(text);
    const found =
      given ??
      german ??
      /^(?:add|put|insert|include|give (?:it|him|her|them)|place|with|mit)\s+(.+?)(?:\s+(?:to it|to the picture|in it|there|dazu))?$/.exec(
        text,
      );
    if (found === null) return false;
    const what = inEnglish((given?.[2] ?? (found[1] as string)).replace(/^(ein|eine|einen|einem)\s+/, ""));
    const pieces = piecesOf(reading.prompt);
    const subject = pieces.subject.trim();
    reading.prompt = joined({
      ...pieces,
      subject: subject === "" ? articled(what) : `${subject} and ${articled(what)}`,
    });
    reading.need(0.75);
    reading.parts.push({ kind: "add", what: articled(what), words });
    return true;
  },

  function count({ text, words }, reading) {
    const found = new RegExp(
      `^(${anyOf(Object.keys(NUMBERS))})(?: of (?:them|it)|\\s+[\\wäöüß]+| davon)?$`,
    ).exec(text);
    if (found === null) return false;
    const rest = text.slice((found[1] as string).length).trim();
    const pieces = piecesOf(reading.prompt);
    const subject = new RegExp(
      `^\\s*(?:(?:${ARTICLE}|one|two|three|four|\\d+)\\s+)?((?:[\\w-]+ )*)([\\w-]+)\\s*$`,
      "i",
    ).exec(pieces.subject);
    if (subject === null) return false;
    const [, before, noun] = subject as unknown as [string, string, string];
    const same = rest === "" || /^(of|davon)/.test(rest) || phraseOf(noun, rest) !== null;
    if (!same) return false;
    const number = NUMBERS[found[1] as string] as number;
    const singular = noun.replace(/ies$/, "y").replace(/(?<=x|ch|sh)es$|(?<=[^s])s$/, "");
    const phrase =
      number === 1
        ? articled(`${before}${singular}`)
        : `${NUMBER_WORDS[number]} ${before}${plural(singular)}`;
    reading.prompt = joined({ ...pieces, subject: phrase });
    reading.need(0.85);
    reading.parts.push({ kind: "count", number: NUMBER_WORDS[number] as string, words });
    return true;
  },

  function colour({ text, words }, reading) {
    const found = new RegExp(
      `^(?:(?:make|paint|colour|color|turn|mach|mache|färbe|male)\\s+)?(?:${ARTICLE}\\s+)?(.*?)\\s*(?:should be |to be |in |to |soll |sei )?\\b(${COLOUR})(?: sein| machen)?$`,
      "u",
    ).exec(text);
    if (found === null) return false;
    const noun = (found[1] as string).trim();
    const isIt = noun === "" || new RegExp(`^${IT}$`).test(noun);
    return recoloured(reading, words, isIt ? "" : noun, COLOUR_OF.get(found[2] as string) as string);
  },

  function description({ text, words, asked }, reading) {
    if (asked || !/^(a|an|one|two|three|four|ein|eine|zwei|drei|vier)\s+\S/.test(text)) return false;
    reading.prompt = inEnglish(text);
    reading.need(0.85);
    reading.parts.push({ kind: "prompt", text: reading.prompt, words });
    return true;
  },

  function loose({ text, words, asked }, reading) {
    if ((!asked && !PLACE.test(text)) || text === "" || text.split(" ").length > 4) return false;
    if (/^(a|an|ein|eine)\s/.test(text)) {
      const pieces = piecesOf(reading.prompt);
      reading.parts.push({ kind: "replace", from: pieces.subject.trim(), to: text, words });
      reading.prompt = joined({ ...pieces, subject: inEnglish(text) });
      reading.need(0.8);
      return true;
    }
    const phrase = text.replace(/^(more|mehr)\s+/, "");
    reading.append(phrase);
    reading.need(0.6);
    reading.parts.push({ kind: "loose", phrase, words });
    return true;
  },
];

/** Another colour for a noun of the prompt, or for its subject where the noun is "". */
function recoloured(
  reading: Reading,
  words: string,
  noun: string,
  colour: string,
): boolean | "not-in-prompt" {
  const pieces = piecesOf(reading.prompt);
  let place: RegExpExecArray | null;
  if (noun === "") {
    place = new RegExp(
      `^\\s*((?:${ARTICLE}|one|two|three|four|\\d+)\\s+)?((?:${COLOUR})\\s+)?(\\S+)`,
      "i",
    ).exec(pieces.subject);
  } else {
    place = phraseOf(pieces.subject, noun);
    if (place === null && /^(background|hintergrund)$/.test(noun)) {
      reading.prompt = joined({ ...pieces, background: ` on ${articled(colour)} background` });
      reading.need(0.75);
      reading.parts.push({ kind: "background", to: colour, words });
      return true;
    }
  }
  if (place === null) return "not-in-prompt";
  const article = (place[1] ?? "").trim();
  const phrase = /^an?$/i.test(article)
    ? articled(`${colour} ${place[3]}`)
    : `${article} ${colour} ${place[3]}`;
  pieces.subject =
    pieces.subject.slice(0, place.index) +
    phrase.trim() +
    pieces.subject.slice(place.index + place[0].length);
  reading.prompt = joined(pieces);
  reading.need(0.7);
  reading.parts.push({ kind: "colour", colour, noun: place[3] as string, words });
  return true;
}

function understood(clause: Clause, reading: Reading): boolean | "not-in-prompt" {
  let missing = false;
  for (const rule of RULES) {
    if (missing && rule === RULES.at(-1)) break; // what names something that is not there is no loose wish
    const result = rule(clause, reading);
    if (result === true) return true;
    if (result === "not-in-prompt") missing = true;
  }
  return missing ? "not-in-prompt" : false;
}

const INNER = /\s*(?:\s+(?:and then|and|but|then|und dann|und|aber|dann)\s+)\s*/i;

function read(text: string, reading: Reading): void {
  const clause = clauseOf(text);
  if (clause.text === "") return;
  // Halves that both say something are two wishes; a half that does not belongs to the other, as in "a cat and a dog".
  const halves = text.split(INNER).filter((half) => half.trim() !== "");
  if (halves.length > 1) {
    const trial = new Reading({ ...reading.knows, prompt: reading.prompt, negative: reading.negative });
    const known = halves.map((half, i) => {
      const piece = clauseOf(half);
      return understood(i === 0 || !clause.asked ? piece : { ...piece, asked: true }, trial) === true;
    });
    const loose = trial.parts.some((part) => part.kind === "prompt");
    if (known.every(Boolean) && !loose && TONES[clause.text] === undefined) {
      for (const [i, half] of halves.entries()) {
        const piece = clauseOf(half);
        understood(i === 0 || !clause.asked ? piece : { ...piece, asked: true }, reading);
      }
      return;
    }
  }
  const result = understood(clause, reading);
  if (result === true) return;
  if (halves.length > 1) {
    for (const half of halves) read(half, reading);
    return;
  }
  reading.left.push({ words: clause.words, why: result === "not-in-prompt" ? "not-in-prompt" : "unknown" });
}

/** What a sentence asks for, and what of it was not understood. Nothing is drawn where `parts` is empty. */
export function say(sentence: string, knows: Knows): Said {
  const reading = new Reading(knows);
  for (const text of sentence.split(/[,;\n]|[.!?]+(?:\s|$)/)) {
    if (text.trim() !== "") read(text, reading);
  }
  const strength = (reading.needed || (knows.strength ?? 0.6)) * reading.factor;
  return {
    parts: reading.parts,
    left: reading.left,
    prompt: reading.prompt,
    negative: reading.negative,
    strength: Math.round(100 * Math.min(Math.max(strength, 0.1), 1)) / 100,
    looks: reading.looks,
    extend: reading.extend,
    loras: [...new Set(reading.loras)],
    steps: reading.steps,
  };
}
