import type { FastifyReply, FastifyRequest } from 'fastify'
import { Readable } from 'node:stream'
import { answerAttach, answerGenerator, type Answer, type StreamState } from './answer.ts'
import { parseCursor, type Cursor } from './cursor.ts'
import type { Dispatcher } from './dispatcher.ts'
import { isRefusal, OptionInvalidError, ShuttingDownError, StreamNotFoundError } from './errors.ts'
import { EventStream } from './event-stream.ts'
import { HEARTBEAT, retryFrame, streamEndFrame, streamGapFrame } from './frame.ts'
import { logSafely } from './log-safely.ts'
import type { AttachOptions, StreamOptions } from './options.ts'
import type { Registry } from './registry.ts'
import { LOST_GAP, type Arrival } from './replay.ts'
import { ResponseBody } from './response-body.ts'
import { refusedRetryMs, retryBlock } from './retry.ts'
import {
  assertHandler,
  assertOwner,
  assertStreamId,
  DEFAULT_RETRY_MS,
  resolveAttachCall,
  resolveStreamCall,
  type ClientSettings,
  type PluginSettings
} from './settings.ts'
import type { Handler, Sought, StreamSource } from './stream-source.ts'
import type { Transport } from './transport.ts'

/** One request, with what decides its answer. */
interface Visit {
  readonly reply: FastifyReply
  /** Of a named stream. */
  readonly streamId: string | undefined
  /** From the header, or from where the application keeps it. */
  readonly cursor: Cursor
  /** The header shows a terminal id. */
  readonly hasEverything: boolean
  readonly from: 'start' | 'live'
  readonly client: ClientSettings
}

/** From a request to its answer: what `reply.sseFromGenerator()` and `reply.sseAttach()` do. */
export class Responder {
  readonly #registry: Registry
  readonly #source: StreamSource
  readonly #settings: PluginSettings
  readonly #dispatcher: Dispatcher

  constructor(registry: Registry, source: StreamSource, settings: PluginSettings, dispatcher: Dispatcher) {
    this.#registry = registry
    this.#source = source
    this.#settings = settings
    this.#dispatcher = dispatcher
  }

  sseFromGenerator(reply: FastifyReply, handler: Handler, options?: StreamOptions): FastifyReply {
    assertHandler(handler)
    if (this.#dispatcher.isAnswered(reply)) return warnOfSecondAnswer(reply)
    const { request } = reply
    const call = resolveStreamCall(options, this.#settings)
    // Fastify 5.7 has none yet.
    if (call.signal !== undefined && 'signal' in request && call.signal === request.signal) throw requestSignalError()
    const owner = this.#ownerOf(request, call.owner)
    const { streamId, from, client } = call
    const route = streamId === undefined ? `${request.method} ${request.routeOptions.url}` : undefined
    const visit: Visit = { reply, streamId, from, client, ...cursorOf(request, call.lastEventId) }
    const { cursor } = visit
    const find = (): Sought | Promise<Sought> =>
      route === undefined
        ? this.#source.find(streamId as string, owner, cursor)
        : this.#source.findByCursor(cursor, owner, route)
    const start = (arrival: Arrival): FastifyReply =>
      this.#when(
        visit,
        this.#source.findOrStart({ handler, call, owner, route, log: request.log }, call.onLost === 'restart'),
        ({ stream, isNew }) =>
          isNew
            ? this.#attach(visit, stream, arrival)
            : this.#send(visit, answerGenerator(stream, cursor, call), stream)
      )
    return this.#answer(visit, () => {
      if (isHead(request)) {
        if (streamId === undefined && cursor.kind !== 'none') return this.#sendHead(visit)
        const state = streamId === undefined ? undefined : this.#source.peek(streamId, owner)
        return this.#when(visit, state, (stream) =>
          this.#answerHead(visit, answerGenerator(stream, cursor, call), stream, owner)
        )
      }
      if (cursor.kind === 'none') return start('started')
      return this.#when(visit, find(), (stream) => {
        const answer = answerGenerator(stream, cursor, call)
        return answer.kind === 'start' ? start(answer.arrival) : this.#send(visit, answer, stream)
      })
    })
  }

  sseAttach(reply: FastifyReply, streamId: string, options?: AttachOptions): FastifyReply {
    assertStreamId(streamId)
    if (this.#dispatcher.isAnswered(reply)) return warnOfSecondAnswer(reply)
    const { request } = reply
    const call = resolveAttachCall(options, this.#settings)
    const owner = this.#ownerOf(request, call.owner)
    const { from, client } = call
    const place = cursorOf(request, call.lastEventId)
    const answerFor = (stream: StreamState | undefined): Answer => {
      const answer = answerAttach(stream, place.cursor, call)
      if (answer.kind === 'missing' && call.missing === 404) throw new StreamNotFoundError(streamId)
      return answer
    }
    return this.#answer({ reply, streamId, from, client, ...place }, (visit) => {
      if (isHead(request)) {
        const state = this.#source.peek(streamId, owner)
        return this.#when(visit, state, (stream) => this.#answerHead(visit, answerFor(stream), stream, owner))
      }
      const found = this.#source.find(streamId, owner, visit.cursor)
      return this.#when(visit, found, (stream) => this.#send(visit, answerFor(stream), stream))
    })
  }

  #ownerOf(request: FastifyRequest, explicit: string | undefined): string | undefined {
    if (explicit !== undefined || this.#settings.ownerOf === undefined) return explicit
    const owner: unknown = this.#settings.ownerOf(request)
    assertOwner(owner)
    return owner
  }

  // Who shows a terminal id has everything, whatever became of its stream: no look-up, also after a restart.
  #answer(visit: Visit, answer: (visit: Visit) => FastifyReply): FastifyReply {
    if (visit.hasEverything) return this.#sendNothing(visit)
    try {
      if (this.#registry.isShuttingDown) throw new ShuttingDownError()
      return answer(visit)
    } catch (error) {
      if (isRefusal(error)) return this.#refuse(visit, error)
      throw error
    }
  }

  // Without a store everything is found at once, and the request has its answer before this returns.
  #when<T>(visit: Visit, found: T | Promise<T>, answer: (found: T) => FastifyReply): FastifyReply {
    if (!(found instanceof Promise)) return answer(found)
    const { reply } = visit
    this.#dispatcher.expect(reply)
    const settle = (act: () => FastifyReply): void => {
      if (!this.#dispatcher.isExpected(reply)) return
      try {
        this.#answer(visit, act)
      } catch (error) {
        this.#dispatcher.fail(reply, error)
      }
    }
    found.then(
      (value) => settle(() => answer(value)),
      (error: unknown) =>
        settle(() => {
          throw error
        })
    )
    return reply
  }

  // ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  #send(visit: Visit, { kind }: Answer, stream: EventStream | undefined): FastifyReply {
    if (kind === 'nothing' || kind === 'missing') return this.#sendNothing(visit)
    if (kind === 'lost' || stream === undefined) return this.#sendLost(visit)
    return this.#attach(visit, stream, 'attached')
  }

  // What would be refused is refused, and nothing else takes place.
  #answerHead(
    visit: Visit,
    { kind }: Answer,
    stream: StreamState | undefined,
    owner: string | undefined
  ): FastifyReply {
    if (kind === 'nothing' || kind === 'missing') return this.#sendNothing(visit)
    if (kind === 'start') this.#registry.assertMayStart(owner)
    if (kind === 'attach' && stream instanceof EventStream) this.#registry.assertMayAttach(stream)
    return this.#sendHead(visit)
  }

  #attach(visit: Visit, stream: EventStream, arrival: Arrival): FastifyReply {
    const { reply, cursor, from, client } = visit
    const subscriber = this.#registry.attach(stream, { arrival, cursor, from }, client)
    const body = new ResponseBody(reply.raw, subscriber, this.#registry.clock)
    return this.#dispatcher.dispatch(withHeaders(reply, stream.streamId), body, subscriber.leave)
  }

  #sendHead({ reply, streamId }: Visit): FastifyReply {
    return this.#dispatcher.dispatch(withHeaders(reply, streamId), Readable.from([]))
  }

  #sendNothing({ reply }: Visit): FastifyReply {
    return this.#dispatcher.dispatch(reply.code(204), undefined)
  }

  #sendLost(visit: Visit): FastifyReply {
    const { cursor, client } = visit
    const epoch =
      cursor.kind === 'position' || cursor.kind === 'terminal' ? cursor.epoch : this.#registry.epochs.createEpoch()
    const { reason, missed, resumesAt } = LOST_GAP
    this.#registry.counters.gaps += 1
    return this.#sendWithoutStream(visit, (transport) => {
      transport.hold()
      transport.write(retryBlock(client.retryMs) + streamGapFrame(reason, missed, resumesAt))
      transport.end(streamEndFrame('lost', epoch))
    })
  }

  // An EventSource that is told anything but 200 gives up for ever, so it is told when to come back.
  #refuse(visit: Visit, error: Error): FastifyReply {
    this.#registry.counters.rejected += 1
    const { reply, client } = visit
    const retryMs = refusedRetryMs(
      client.retryMs === false ? DEFAULT_RETRY_MS : client.retryMs,
      this.#registry.returnAfterMs
    )
    if (!isEventSource(reply.request)) {
      reply.header('retry-after', Math.ceil(retryMs / 1000))
      throw error
    }
    if (isHead(reply.request)) return this.#sendHead(visit)
    return this.#sendWithoutStream(visit, (transport) => {
      transport.hold()
      transport.write(client.retryMs === false ? HEARTBEAT : retryFrame(retryMs))
      transport.truncate()
    })
  }

  #sendWithoutStream({ reply, streamId, client }: Visit, open: (transport: Transport) => void): FastifyReply {
    const { clock } = this.#registry
    const ending = this.#dispatcher.expectEnd(reply, clock, client.stallTimeoutMs)
    const openInTime = (transport: Transport): void => {
      ending.onOpen()
      open(transport)
    }
    const body = new ResponseBody(reply.raw, { open: openInTime, onDrain: ignore, leave: ignore }, clock)
    return this.#dispatcher.dispatch(withHeaders(reply, streamId), body, ending.leave)
  }
}

function ignore(): void {}

// A stream would run for nobody.
function warnOfSecondAnswer(reply: FastifyReply): FastifyReply {
  // Fastify logs FST_ERR_REP_ALREADY_SENT; it does not know yet of an answer that has to be asked for.
  if (reply.sent) return reply.send()
  logSafely(reply.log, 'warn', {}, 'a second answer to one request is ignored')
  return reply
}

function withHeaders(reply: FastifyReply, streamId: string | undefined): FastifyReply {
  reply.code(200)
  reply.header('content-type', 'text/event-stream')
  reply.header('cache-control', 'no-store, no-transform')
  reply.header('x-accel-buffering', 'no')
  // Whoever set it, it is not known.
  reply.removeHeader('content-length')
  if (streamId !== undefined) reply.header('stream-id', streamId)
  return reply
}

/** The header wins over what the application keeps elsewhere; an empty one is none. */
function cursorOf(request: FastifyRequest, elsewhere: unknown): Pick<Visit, 'cursor' | 'hasEverything'> {
  const header = parseCursor(request.headers['last-event-id'])
  return { cursor: header.kind === 'none' ? parseCursor(elsewhere) : header, hasEverything: header.kind === 'terminal' }
}

function isHead(request: FastifyRequest): boolean {
  return request.method === 'HEAD'
}

// RFC 9110 § 12.5.1: media types are case-insensitive, and may have parameters.
const EVENT_STREAM = /(?:^|[\s,])text\/event-stream\s*(?:[;,]|$)/i

function isEventSource(request: FastifyRequest): boolean {
  return (request.method === 'GET' || isHead(request)) && EVENT_STREAM.test(request.headers.accept ?? '')
}

function requestSignalError(): Error {
  const why =
    'It fires as soon as the body of a POST is read, and with it a client that leaves would end the stream of all.'
  return new OptionInvalidError('signal', 'request.signal', `${why} Leave it out, or give a signal of your own.`)
}
