/** Numbers as people read them, in the language of the page. */

/** Bytes: "1.4 MB". Powers of 1000, as disks and downloads are counted. */
export function bytes(count: number, language: string): string {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"] as const;
  const power = Math.min(units.length - 1, count < 1000 ? 0 : Math.floor(Math.log10(count) / 3));
  const value = count / 1000 ** power;
  return new Intl.NumberFormat(language, {
    style: "unit",
    unit: units[power],
    unitDisplay: power === 0 ? "long" : "short",
    maximumFractionDigits: value < 10 && power > 0 ? 1 : 0,
  }).format(value);
}

/** Seconds: "3 s", "1 min 20 s", "2 h 5 min"; under a second "0.4 s". Rounded to what an estimate is worth. */
export function duration(seconds: number, language: string): string {
  const part = (value: number, unit: "second" | "minute" | "hour", digits = 0) =>
    new Intl.NumberFormat(language, {
      style: "unit",
      unit,
      unitDisplay: unit === "minute" ? "short" : "narrow",
      maximumFractionDigits: digits,
    })
      .format(value)
      .replace(/(\d)(\p{L})/u, "$1 $2");
  if (seconds < 9.95) return part(seconds, "second", seconds < 0.95 ? 1 : 0);
  const whole = Math.round(seconds);
  if (whole < 60) return part(whole, "second");
  if (whole < 3600) {
    const rest = Math.round((whole % 60) / 10) * 10;
    return rest === 60 || rest === 0
      ? part(Math.round(whole / 60), "minute")
      : `${part(Math.floor(whole / 60), "minute")} ${part(rest, "second")}`;
  }
  const minutes = Math.round((whole % 3600) / 60);
  return minutes === 60 || minutes === 0
    ? part(Math.round(whole / 3600), "hour")
    : `${part(Math.floor(whole / 3600), "hour")} ${part(minutes, "minute")}`;
}

/** The number of weights: "14.7 million". */
export function parameters(count: number, language: string): string {
  return new Intl.NumberFormat(language, {
    notation: "compact",
    compactDisplay: "long",
    maximumFractionDigits: 1,
  }).format(count);
}

/** The first ten digits of a SHA-256, which is what other tools call the model hash. */
export function shortHash(sha256: string | null | undefined): string {
  return sha256 ? sha256.replace(/^(sha256:|0x)/, "").slice(0, 10) : "";
}

/** The day of a time, for headings: "today", "yesterday", else a date. */
export function day(at: Date, now: Date, language: string): string {
  const midnight = (date: Date) => new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
  const ago = Math.round((midnight(at) - midnight(now)) / 86_400_000);
  if (ago > -2 && ago <= 0) {
    const word = new Intl.RelativeTimeFormat(language, { numeric: "auto" }).format(ago, "day");
    return word.charAt(0).toLocaleUpperCase(language) + word.slice(1);
  }
  return new Intl.DateTimeFormat(language, {
    weekday: "long",
    day: "numeric",
    month: "long",
    ...(at.getFullYear() === now.getFullYear() ? {} : { year: "numeric" }),
  }).format(at);
}
