import type { FastifyReply, FastifyRequest } from 'fastify'
import type { ServerHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import type { Clock, Timer } from './clock.ts'
import { asError, ReplyNotReturnedError } from './errors.ts'
import { logSafely } from './log-safely.ts'
import { destroyResponse, isGone, isHttp2, type RawResponse } from './transport.ts'

/** A reply that was given to Fastify. */
interface Dispatched {
  /** Whoever fills the response learns that its client is gone. Idempotent. */
  readonly leave: () => void
  hasFailed: boolean
}

/** An answer that is whole, and only has to be taken. */
interface Ending {
  /** Its body starts: from here on its client has to take it in time. */
  readonly onOpen: () => void
  /** It is through, or its client is gone. Idempotent. */
  readonly leave: () => void
}

// On the request itself: a WeakMap costs 1 µs per request, and as much again in garbage collections.
const DISPATCHED: unique symbol = Symbol('fastify-resumable-sse:dispatched')
type Carrier = FastifyRequest & { [DISPATCHED]?: Dispatched }

/**
 * Gives a payload to Fastify so that every `onSend` hook and header takes part, and takes the response away from it
 * afterwards; then covers what Fastify does no longer: a hook that fails, a client that leaves.
 */
export class Dispatcher {
  // Whose answer has to be asked of a store first.
  readonly #expected = new WeakSet<FastifyRequest>()
  // One listener per connection, however many requests wait on it.
  readonly #waiting = new WeakMap<Socket, Set<() => void>>()
  readonly #sessions = new Map<ServerHttp2Session, Socket>()
  // Answers that are whole, and only have to be taken.
  readonly #ending = new Set<RawResponse>()

  /** The answer to a request comes later: it has to be asked of a store first. */
  expect({ request }: FastifyReply): void {
    this.#expected.add(request)
  }

  /** Whether a request has its answer, or will have it by what was asked for it. */
  isAnswered(reply: FastifyReply): boolean {
    return reply.sent || this.#expected.has(reply.request)
  }

  /** Whether the answer is still wanted: nobody has answered in the meantime. */
  isExpected(reply: FastifyReply): boolean {
    return this.#expected.delete(reply.request) && !reply.sent
  }

  /** Has Fastify answer with what was thrown where nobody else would catch it. */
  fail(reply: FastifyReply, error: unknown): void {
    try {
      reply.send(asError(error))
    } catch (failure) {
      // It is answering with another error.
      logSafely(reply.log, 'error', {}, 'an answer came too late', failure)
    }
  }

  /**
   * `onSend`, with a store: a success while an answer is expected is that of an `async` handler which forgot to return the
   * reply. Whatever is sent, nothing else is expected from then on.
   *
   * @throws FST_ERR_RSSE_REPLY_NOT_RETURNED
   */
  onSend({ request, statusCode }: FastifyReply): void {
    if (this.#expected.delete(request) && statusCode < 400) throw new ReplyNotReturnedError()
  }

  /** Sends `payload`; `leave` is called once the response is through, or its client is gone, whatever notices first. */
  dispatch(reply: FastifyReply, payload: unknown, leave: () => void = () => {}): FastifyReply {
    const { raw } = reply
    const request: Carrier = reply.request
    const dispatched: Dispatched = { leave, hasFailed: false }
    request[DISPATCHED] = dispatched
    raw.on('close', leave)
    if (isGone(raw)) leave()
    else if (isHttp2(raw)) this.#trackSession(raw.stream.session as ServerHttp2Session | undefined)
    else if (raw.socket === null) this.#watchSocket(reply, leave)
    reply.send(payload)
    // Hijacked, the reply outlives `handlerTimeout` and a handler that forgets to return it. But a hook that has failed
    // by now is answered by Fastify.
    if (!dispatched.hasFailed) reply.hijack()
    return reply
  }

  // A pipelined request whose turn has not come has no socket yet, and on Node 20 its response never closes.
  #watchSocket({ request, raw }: FastifyReply, leave: () => void): void {
    const { socket } = request.raw
    if (socket.destroyed) return leave()
    const waiting = this.#waiting.get(socket) ?? this.#watch(socket)
    waiting.add(leave)
    raw.once('close', () => waiting.delete(leave))
  }

  #watch(socket: Socket): Set<() => void> {
    const waiting = new Set<() => void>()
    this.#waiting.set(socket, waiting)
    socket.once('close', () => {
      for (const leave of waiting) leave()
    })
    return waiting
  }

  /** `onRequestAbort`: the client left, maybe before its response began. */
  onRequestAbort(request: Carrier): void {
    request[DISPATCHED]?.leave()
  }

  /** `onError`: an `onSend` hook failed. Fastify does not answer for a hijacked reply, and the client would wait for ever. */
  onError(request: Carrier, reply: FastifyReply, error: unknown): void {
    this.#expected.delete(request)
    const dispatched = request[DISPATCHED]
    if (dispatched === undefined) return
    dispatched.hasFailed = true
    if (!reply.sent || reply.raw.headersSent) return
    logSafely(reply.log, 'error', {}, 'an onSend hook failed', error)
    const body = JSON.stringify({ statusCode: 500, error: 'Internal Server Error', message: 'Internal Server Error' })
    reply.raw.writeHead(500, { 'content-type': 'application/json; charset=utf-8' })
    reply.raw.end(body)
  }

  /** A few bytes that no stream watches over: a client that does not take them within `timeoutMs` is cut off. */
  expectEnd({ raw }: FastifyReply, clock: Clock, timeoutMs: number): Ending {
    let timer: Timer | undefined
    const startTimer = (): void => {
      if (timeoutMs === Infinity || !this.#ending.has(raw)) return
      timer = clock.setTimer(() => destroyResponse(raw), timeoutMs)
    }
    this.#ending.add(raw)
    return {
      onOpen: () => {
        // A pipelined request has to wait for its turn; until then there is nothing to take.
        if (!isHttp2(raw) && raw.socket === null) raw.once('socket', startTimer)
        else startTimer()
      },
      leave: () => {
        this.#ending.delete(raw)
        if (timer !== undefined) clock.clearTimer(timer)
      }
    }
  }

  #trackSession(session: ServerHttp2Session | undefined): void {
    if (session === undefined || session.closed || this.#sessions.has(session)) return
    // `session.socket` is a proxy that cannot be destroyed; what its `once` returns is the socket itself.
    const socket = session.socket.once('close', () => this.#sessions.delete(session))
    this.#sessions.set(session, socket)
  }

  /**
   * Lets the HTTP/2 sessions end that carried our responses; Node 20 keeps a server open for them. A session that has
   * ended waits for its peer to hang up; one that does not within `timeoutMs` is cut off, as is an answer that is not
   * taken.
   */
  closeSessions(clock: Clock, timeoutMs: number): void {
    if (this.#sessions.size + this.#ending.size === 0) return
    for (const session of this.#sessions.keys()) session.close()
    const cutOff = (): void => {
      for (const raw of this.#ending) destroyResponse(raw)
      for (const [session, socket] of this.#sessions) if (session.destroyed) socket.destroy()
    }
    clock.setTimer(cutOff, timeoutMs)
  }
}
