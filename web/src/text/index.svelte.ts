// What the page says, in English and German. Each view has a file of its own beside this one:
//
//   export const draw = catalogue({ title: "Draw", pictures: (n: number) => `${n} pictures` },
//                                 { title: "Zeichnen", pictures: (n) => `${n} Bilder` });
//
// and a component writes {draw.title}. What a second language lacks, or has too much, is an error of types. Reading a
// text follows the language, so a change shows at once.

import { keep, kept } from "../state/store";

export type Language = "en" | "de";
type Entry = string | ((...values: never[]) => string);
type Plain<T> = { readonly [K in keyof T]: T[K] extends string ? string : T[K] };

export const LANGUAGES: Readonly<Record<Language, string>> = { en: "English", de: "Deutsch" };
const RIGHT_TO_LEFT: readonly string[] = ["ar", "fa", "he", "ur"];
const PLACE = "gesso.language";

const preferred = (): Language => {
  const saved = kept(PLACE);
  const wanted = saved ? [saved] : (navigator.languages ?? [navigator.language]);
  const found = wanted.map((one) => one.slice(0, 2)).find((one) => one in LANGUAGES);
  return (found ?? "en") as Language;
};

let current = $state<Language>(preferred());

export const language = {
  get code(): Language {
    return current;
  },
  /** For numbers and dates, as where the user is, if that is a place of the language that was chosen. */
  get locale(): string {
    return (navigator.languages ?? []).find((one) => one.slice(0, 2) === current) ?? current;
  },
  get direction(): "ltr" | "rtl" {
    return RIGHT_TO_LEFT.includes(current) ? "rtl" : "ltr";
  },
  choose(code: Language): void {
    current = code;
    keep(PLACE, code);
  },
};

export function catalogue<T extends Record<string, Entry>>(en: T, de: Plain<T>): Plain<T> {
  const all = { en, de };
  return new Proxy(en, { get: (_, name) => Reflect.get(all[current], name) as unknown }) as Plain<T>;
}

/** What a language is called in that of the page. */
export const languageName = ({ code, name }: { code: string; name: string }): string =>
  new Intl.DisplayNames(language.locale, { type: "language", fallback: "none" }).of(code) ?? name;

/** A number as the language writes it. */
export const number = (value: number, digits = 0): string =>
  value.toLocaleString(language.locale, { maximumFractionDigits: digits });

/** Bytes, in the largest unit that leaves a number of 1 or more. */
export function size(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let rank = 0;
  while (bytes >= 1000 && rank < units.length - 1) {
    bytes /= 1000;
    rank += 1;
  }
  return `${number(bytes, bytes < 10 && rank > 0 ? 1 : 0)} ${units[rank]}`;
}

/** A time of the API as day and hour. */
export const moment = (text: string): string =>
  new Date(text).toLocaleString(language.locale, { dateStyle: "medium", timeStyle: "short" });

/** A time of the API as a day. */
export const day = (text: string): string =>
  new Date(text).toLocaleDateString(language.locale, { dateStyle: "medium" });

/** A time of the API as a month, short. */
export const month = (text: string): string =>
  new Date(text).toLocaleDateString(language.locale, { month: "short", year: "2-digit" });

/** A time of the API as a year. */
export const year = (text: string): string =>
  new Date(text).toLocaleDateString(language.locale, { year: "numeric" });
