/** What a page calls of sluice.js, as `window.sluice`. docs/browser.md says what each does. */
export interface SluiceOptions {
  /** The API's stage, `https://.../prod`, or the stack's output TrackURL. */
  url: string;
  /** The column `source` of each event: which site or app. */
  source?: string;
  /** "local" keeps ids and unsent events in localStorage, once consent is given. Default: "none", nothing is kept. */
  storage?: "none" | "local";
  /** Names of query parameters that belong to a page's path, with spaces between. */
  query?: string;
  /** Sends document.title, too, if it is there. */
  title?: true | "";
  /** Any of `outbound download form`, with spaces between. */
  track?: string;
}

export interface Sluice {
  /** Starts, where no script tag with `data-url` has. A second call changes nothing. */
  init(options: SluiceOptions): void;
  /** Sends an event named "page" with this action; `properties` may give another name, a value, and any JSON. */
  track(action: string, properties?: Record<string, unknown>): void;
  /** Gives the later events of this page a user_id, and sends an event; without an id, later events have none. */
  identify(id?: string | number | null): void;
  /** The visitor's answer. Without consent no id is made and nothing is stored. */
  consent(isGiven: boolean): void;
  /** Sends nothing more, and forgets what is stored. */
  optOut(): void;
}

declare global {
  interface Window {
    /** Missing where a blocker keeps the script away: call `window.sluice?.track(...)`. */
    sluice?: Sluice;
  }
}
