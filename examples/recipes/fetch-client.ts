import { EventSourceParserStream, type EventSourceMessage } from 'eventsource-parser/stream'

// No room for now, or nobody behind the proxy: it passes.
const AWAY = new Set([502, 503, 504])

/**
 * Reads a stream with `fetch`, for what EventSource cannot do: a POST, headers of your own. It comes back with
 * `last-event-id` after a lost connection, asks again like EventSource for as long as nobody answers or has room, and
 * returns when the stream has ended. Works in browsers and in Node.
 *
 * @throws what `fetch` throws when `init.signal` aborts; an `Error` when the server refuses the request for good
 */
export async function* readEvents(url: string, init: RequestInit = {}): AsyncGenerator<EventSourceMessage, void> {
  let lastEventId: string | undefined
  let retryMs = 3_000

  for (;;) {
    const headers = new Headers(init.headers)
    headers.set('accept', 'text/event-stream')
    if (lastEventId !== undefined) headers.set('last-event-id', lastEventId)

    const response = await fetch(url, { ...init, headers }).catch(giveUpIfAborted)
    if (response?.status === 204) return // we have everything
    if (response && !response.ok && !AWAY.has(response.status)) {
      throw new Error(`${url} answered ${response.status}: ${await response.text()}`)
    }
    const events = response?.body
      ?.pipeThrough(new TextDecoderStream())
      .pipeThrough(new EventSourceParserStream({ onRetry: (ms) => (retryMs = ms) }))
      .getReader()
    try {
      for (;;) {
        // A truncated body is an error here: the connection was lost, the stream goes on.
        const next = await events?.read().catch(giveUpIfAborted)
        if (next?.value === undefined) break
        lastEventId = next.value.id ?? lastEventId
        yield next.value
        if (next.value.event === 'stream-end') return
      }
    } finally {
      await events?.cancel().catch(() => {})
    }
    await pause(1_000 * Number(response?.headers.get('retry-after')) || retryMs)
  }

  // An abort ends it, and `fetch` throws then.
  function pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const signal = init.signal
      const end = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', end)
        resolve()
      }
      const timer = setTimeout(end, ms)
      signal?.addEventListener('abort', end)
    })
  }

  function giveUpIfAborted(error: unknown): undefined {
    if (init.signal?.aborted) throw error
  }
}
