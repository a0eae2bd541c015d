/** One listener per signal, however many streams it aborts: Node warns at the eleventh. */
export class SignalWatch {
  readonly #watched = new Map<AbortSignal, Set<() => void>>()

  /** Calls `onAbort` when `signal` aborts. It must not have aborted yet. */
  watch(signal: AbortSignal, onAbort: () => void): void {
    const watching = this.#watched.get(signal)
    if (watching !== undefined) return void watching.add(onAbort)
    this.#watched.set(signal, new Set([onAbort]))
    signal.addEventListener('abort', this.#onAbort)
  }

  /** Idempotent. */
  unwatch(signal: AbortSignal, onAbort: () => void): void {
    const watching = this.#watched.get(signal)
    if (watching?.delete(onAbort) !== true || watching.size > 0) return
    this.#watched.delete(signal)
    signal.removeEventListener('abort', this.#onAbort)
  }

  #onAbort = (event: Event): void => {
    for (const onAbort of this.#watched.get(event.target as AbortSignal) ?? []) onAbort()
  }
}
