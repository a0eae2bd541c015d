import { getLines, getMessages } from '@microsoft/fetch-event-source/lib/cjs/parse.js'
import { createParser } from 'eventsource-parser'
import { createRequire } from 'node:module'
import { StringDecoder } from 'node:string_decoder'

/** An event as any parser reads it. */
export interface ParsedEvent {
  readonly event: string
  readonly data: string
  readonly id: string
}

export interface Parsed {
  readonly events: ParsedEvent[]
  /** The reconnection times, in order; of a parser that tells only the last, that one. */
  readonly retries: number[]
}

/** Reads a whole body, in the chunks in which it comes. */
export type Parse = (chunks: readonly Uint8Array[]) => Parsed

interface EventSourceStream {
  write(chunk: Uint8Array): boolean
}

// Its parser is not exported, and has no types; but it is written from the standard, byte by byte, unlike the others.
const { EventSourceStream } = createRequire(import.meta.url)('undici/lib/web/eventsource/eventsource-stream.js') as {
  EventSourceStream: new (options: {
    eventSourceSettings: { reconnectionTime?: number; lastEventId?: string }
    push: (event: { type: string; options: { data: string; lastEventId: string } } | null) => boolean
  }) => EventSourceStream
}

function parseByEventsourceParser(chunks: readonly Uint8Array[]): Parsed {
  const events: ParsedEvent[] = []
  const retries: number[] = []
  const parser = createParser({
    onEvent: ({ event = 'message', data, id = '' }) => events.push({ event, data, id }),
    onRetry: (retry) => retries.push(retry),
    onError: (error) => {
      throw error
    }
  })
  const decoder = new StringDecoder('utf8')
  for (const chunk of chunks) parser.feed(decoder.write(Buffer.from(chunk)))
  return { events, retries }
}

function parseByUndici(chunks: readonly Uint8Array[]): Parsed {
  const events: ParsedEvent[] = []
  const settings: { reconnectionTime?: number } = {}
  const stream = new EventSourceStream({
    eventSourceSettings: settings,
    push: (event) => {
      if (event !== null) {
        const { type, options } = event
        events.push({ event: type, data: options.data, id: options.lastEventId })
      }
      return true
    }
  })
  for (const chunk of chunks) stream.write(Buffer.from(chunk))
  return { events, retries: settings.reconnectionTime === undefined ? [] : [settings.reconnectionTime] }
}

function parseByMicrosoft(chunks: readonly Uint8Array[]): Parsed {
  const events: ParsedEvent[] = []
  const retries: number[] = []
  const onLine = getMessages(
    () => {},
    (retry) => retries.push(retry),
    // It reports every block, also those without an event.
    ({ event, data, id }) => {
      if (id !== '') events.push({ event: event === '' ? 'message' : event, data, id })
    }
  )
  const onChunk = getLines(onLine)
  for (const chunk of chunks) onChunk(chunk)
  return { events, retries }
}

// Each line is decoded by itself, which takes a byte order mark off it, and empty lines at the beginning are dropped.
function asMicrosoftReads({ event, data, id }: ParsedEvent): ParsedEvent {
  const withoutMark = (text: string): string => text.replace(/^\uFEFF/, '')
  const lines = data.split('\n').map(withoutMark)
  while (lines.length > 1 && lines[0] === '') lines.shift()
  return { event: withoutMark(event) || 'message', data: lines.join('\n'), id }
}

export interface SseParser {
  readonly parse: Parse
  /** What this parser makes of an event that was sent right; by the standard, the event itself. */
  readonly expected: (event: ParsedEvent) => ParsedEvent
  readonly knowsAllRetries: boolean
}

const byTheStandard = (event: ParsedEvent): ParsedEvent => event

/** Three parsers that share no code. */
export const sseParsers: Readonly<Record<string, SseParser>> = {
  'eventsource-parser': { parse: parseByEventsourceParser, expected: byTheStandard, knowsAllRetries: true },
  undici: { parse: parseByUndici, expected: byTheStandard, knowsAllRetries: false },
  '@microsoft/fetch-event-source': { parse: parseByMicrosoft, expected: asMicrosoftReads, knowsAllRetries: true }
}
