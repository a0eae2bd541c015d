import type { Clock, Timer } from '../clock.ts'
import { StoreInvalidError, StoreUnavailableError } from '../errors.ts'
import { settledWithin } from '../settled-within.ts'
import { Appends } from './appends.ts'
import { homeChannel, nameOf, placeOf, probePlace, type Place } from './address.ts'
import { replyCode, toError, type Connection, type ConnectionMaker } from './connection.ts'
import { Link } from './link.ts'
import { readNews, readStop, writeFinish } from './news.ts'
import { Outage } from './outage.ts'
import { judgeProbe, verdictOf } from './probe.ts'
import { AnswerReader, notOurs, readBatches, readStream, writeLengths, writePace } from './record.ts'
import type { RedisSettings } from './redis-options.ts'
import { evaluate, runScript, type Argument } from './run-script.ts'
import { APPEND, CREATE, DISCARD, PROBE, READ, REAP, STOP, type Script } from './scripts.ts'
import type {
  Append,
  AppendAnswer,
  CreateAnswer,
  News,
  NewLife,
  Page,
  Sign,
  StoreHost,
  StreamAddress,
  StreamStore
} from './store.ts'
import { Subscriptions } from './subscriptions.ts'

// Fastify gives a hook ten seconds: what hangs must not keep the application from its start.
const MAX_OPEN_MS = 5_000

/** What {@link StreamStore} promises, by scripts in Redis and its pub/sub. */
export class RedisStore implements StreamStore {
  readonly leaseMs: number
  readonly pollMs: number
  readonly instance: string
  readonly #prefix: string
  readonly #clock: Clock
  readonly #commands: Link
  readonly #news: Link
  readonly #subscriptions: Subscriptions
  readonly #appends: Appends
  // Whoever asks again and again brings the same address.
  readonly #places = new WeakMap<StreamAddress, Place>()
  readonly #underWay = new Set<Promise<unknown>>()
  #host: StoreHost | undefined
  #outage: Outage | undefined
  #pollTimer: Timer | undefined
  #failedAt = -Infinity
  #isProbed = false
  #isOpened = false
  #isClosed = false

  constructor(maker: ConnectionMaker, settings: RedisSettings, instance: string, clock: Clock) {
    this.leaseMs = settings.leaseMs
    this.pollMs = settings.pollMs
    this.instance = instance
    this.#prefix = settings.prefix
    this.#clock = clock
    const timeoutMs = Math.floor(this.leaseMs / 3)
    const common = {
      clock,
      timeoutMs,
      maxPauseMs: this.pollMs,
      onMessage: (channel: string, message: Buffer): void => this.#subscriptions.onMessage(channel, message)
    }
    this.#commands = new Link({
      ...common,
      make: (events) => maker.commands(events, timeoutMs),
      prepare: (connection) => this.#probe(connection),
      onUp: () => this.#onUp(),
      onFailure: (error) => this.#onFailure(error)
    })
    this.#news = new Link({
      ...common,
      make: async (events) => maker.subscriptions(events, timeoutMs, await this.#commands.connection),
      prepare: (connection) => this.#prepareNews(connection),
      // Those who listen are told one by one.
      onUp: () => {},
      // Without news everything goes on, later.
      onFailure: (error) => this.#report(error)
    })
    this.#subscriptions = new Subscriptions(this.#news)
    this.#appends = new Appends((places, args) => this.#send(APPEND, places, args))
  }

  async open(host: StoreHost): Promise<void> {
    if (this.#host !== undefined) {
      throw new StoreInvalidError(
        'it serves another registration already. Make one for each, with a prefix of its own.'
      )
    }
    this.#host = host
    this.#outage = new Outage(this.#clock, host.log, this.leaseMs)
    this.#subscriptions.listen(homeChannel(this.#prefix, this.instance), (message) => this.#onStop(message))
    let failure: unknown
    // The second waits for the first one by itself, where it has to.
    const opened = Promise.all([this.#commands.open(), this.#news.open()]).catch((error: unknown) => (failure = error))
    await settledWithin([opened], MAX_OPEN_MS, this.#clock)
    const verdict = failure === undefined ? undefined : verdictOf(failure, this.#prefix)
    if (verdict !== undefined) {
      this.#end()
      throw verdict
    }
    if (this.#isClosed) return
    this.#isOpened = true
    this.#pollLater()
  }

  async create(address: StreamAddress, life: NewLife, replaces = ''): Promise<CreateAnswer> {
    const { epoch, ttlMs, startedAt, pace, route } = life
    const args = [epoch, this.instance, this.leaseMs, ttlMs, Math.floor(startedAt), replaces, writePace(pace)]
    const { kind, parts } = await this.#run(CREATE, address, route === undefined ? args : [...args, route])
    return kind === 'made' ? { kind } : { kind: 'there', stream: readStream(parts.list()) }
  }

  async discard(address: StreamAddress, epoch: string): Promise<void> {
    await this.#run(DISCARD, address, [epoch, this.instance])
  }

  async append(address: StreamAddress, append: Append): Promise<AppendAnswer> {
    const { batch, finish } = append
    const args = this.#appendArguments(append)
    // An end or a beat goes alone: a full server takes it, and after it would take the frames in the same script.
    const answer = await (batch !== undefined && finish === undefined
      ? this.#ask(APPEND, address, (place) => this.#appends.add(place, args, batch.frames.length))
      : this.#call(APPEND, address, args))
    if (typeof answer === 'number') {
      return { kind: 'stored', lastSequence: answer, isStopped: false, pacing: undefined }
    }
    const { kind, parts } = readAnswer(answer)
    if (kind === 'apart') return { kind, lastSequence: parts.number() }
    if (kind !== 'stored') return { kind: kind === 'missing' ? kind : 'fenced' }
    return {
      kind,
      lastSequence: parts.number(),
      isStopped: parts.optionalText() === '1',
      pacing: parts.optionalNumber()
    }
  }

  #appendArguments({ epoch, ttlMs, batch, lastSequence, keep, finish }: Append): Argument[] {
    const first = batch?.firstSequence ?? '-'
    const head = `${this.instance} ${this.leaseMs} ${ttlMs} ${keep} ${lastSequence} ${first} ${epoch}`
    const args = batch === undefined ? [head, '', ''] : [head, writeLengths(batch.lengths), batch.frames]
    if (finish === undefined) return args
    const { outcome, finishedAt, error } = finish
    const end = [writeFinish(finish), outcome, Math.floor(finishedAt)]
    return error === undefined ? [...args, ...end] : [...args, ...end, error.code, error.message]
  }

  async read(address: StreamAddress, after: number, maxBytes: number, sign?: Sign): Promise<Page | undefined> {
    try {
      return await this.#readPage(address, after, maxBytes, sign)
    } catch (error) {
      // A server that refuses to write can still be read: then without leaving a sign.
      const isRefused = error instanceof StoreUnavailableError && replyCode(error.cause) !== undefined
      if (sign === undefined || !isRefused) throw error
      return this.#readPage(address, after, maxBytes, undefined)
    }
  }

  async #readPage(
    address: StreamAddress,
    after: number,
    maxBytes: number,
    sign: Sign | undefined
  ): Promise<Page | undefined> {
    const signArguments = sign === undefined ? [] : [this.instance, sign.position, sign.epoch ?? '']
    const { kind, parts } = await this.#run(READ, address, [after, maxBytes, ...signArguments])
    if (kind !== 'page') return undefined
    return { stream: readStream(parts.list()), batches: readBatches(parts.list(), after) }
  }

  async stop(address: StreamAddress): Promise<boolean> {
    const { kind } = await this.#run(STOP, address, [homeChannel(this.#prefix, ''), nameOf(address)])
    return kind === 'yes'
  }

  async reap(address: StreamAddress, epoch: string, beat: number): Promise<boolean> {
    const { kind } = await this.#run(REAP, address, [epoch, beat])
    return kind === 'yes'
  }

  follow(address: StreamAddress, listener: (news: News | undefined) => void): () => void {
    return this.#subscriptions.listen(this.#placeOf(address).channel, (message) => {
      const news = message && readNews(message)
      if (message === undefined || news !== undefined) listener(news)
    })
  }

  async close(timeoutMs: number): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    await settledWithin(this.#underWay, timeoutMs, this.#clock)
    this.#end()
  }

  #end(): void {
    this.#isClosed = true
    if (this.#pollTimer !== undefined) this.#clock.clearTimer(this.#pollTimer)
    this.#news.close()
    this.#commands.close()
  }

  async #run(script: Script, address: StreamAddress, args: readonly Argument[]): Promise<Answer> {
    return readAnswer(await this.#call(script, address, args))
  }

  #call(script: Script, address: StreamAddress, args: readonly Argument[]): Promise<unknown> {
    return this.#ask(script, address, (place) => this.#send(script, [place], args))
  }

  #send(script: Script, places: readonly Place[], args: readonly Argument[]): Promise<unknown> {
    return this.#commands.call((connection) => runScript(connection, script, places, args))
  }

  async #ask(script: Script, address: StreamAddress, send: (place: Place) => Promise<unknown>): Promise<unknown> {
    if (this.#isClosed) throw new StoreUnavailableError({ cause: new Error('The store was closed') })
    const call = send(this.#placeOf(address))
    this.#underWay.add(call)
    try {
      const answer = await call
      this.#outage?.onAnswer()
      return answer
    } catch (error) {
      throw this.#failureOf(error, script)
    } finally {
      this.#underWay.delete(call)
    }
  }

  #placeOf(address: StreamAddress): Place {
    let place = this.#places.get(address)
    if (place === undefined) {
      place = placeOf(this.#prefix, address)
      this.#places.set(address, place)
    }
    return place
  }

  #failureOf(error: unknown, script: Script): Error {
    if (error instanceof StoreInvalidError) return error
    const code = replyCode(error)
    if (code === 'WRONGTYPE') return notOurs('a key of another type')
    // The server may have become a replica, with the connection still there.
    if (code === 'READONLY' && script !== READ) this.#commands.replace(toError(error))
    this.#onFailure(toError(error))
    return new StoreUnavailableError({ cause: error })
  }

  #onFailure(error: Error): void {
    this.#failedAt = this.#clock.now()
    this.#report(error)
  }

  #report(error: Error): void {
    if (this.#isClosed) return
    const verdict = verdictOf(error, this.#prefix)
    // `open()` rejects with it.
    if (verdict !== undefined && !this.#isOpened) return
    this.#outage?.onFailure(verdict ?? error)
  }

  async #probe(connection: Connection): Promise<void> {
    const place = probePlace(this.#prefix)
    const args = [place.channel, homeChannel(this.#prefix, this.instance)]
    // Whether or not the server knows the script, both ways to run one are tried.
    if (!this.#isProbed) await evaluate(connection, PROBE, [place], args)
    const answer = await runScript(connection, PROBE, [place], args)
    // Later on less will do: what only refuses to write can be read.
    if (this.#isProbed) return
    judgeProbe(answer, this.#prefix)
    this.#isProbed = true
  }

  async #prepareNews(connection: Connection): Promise<void> {
    await connection.ping()
    await this.#subscriptions.renew(connection)
    if (this.#isOpened) return
    const { channel } = probePlace(this.#prefix)
    await connection.subscribe(channel)
    await connection.unsubscribe(channel)
  }

  get failedAt(): number {
    return this.#failedAt
  }

  #onUp(): void {
    if (this.#isOpened) this.#host?.onReturn()
  }

  #onStop(message: Buffer | undefined): void {
    const stop = message && readStop(message)
    if (stop !== undefined) this.#host?.onStop(stop.address, stop.epoch)
  }

  // A hung server and a half-open socket are found by nothing else.
  async #poll(): Promise<void> {
    try {
      await Promise.all([this.#commands, this.#news].map((link) => link.call((connection) => connection.ping())))
      this.#outage?.onAnswer()
      this.#subscriptions.repeat()
    } catch {
      // The link has told.
    }
  }

  #pollLater(): void {
    this.#pollTimer = this.#clock.setTimer(() => {
      void this.#poll().finally(() => {
        if (!this.#isClosed) this.#pollLater()
      })
    }, this.pollMs)
  }
}

/** What a script says first, and the rest. */
interface Answer {
  readonly kind: string
  readonly parts: AnswerReader
}

function readAnswer(answer: unknown): Answer {
  const parts = new AnswerReader(answer)
  const kind = parts.text()
  if (kind === 'foreign') throw notOurs(parts.optionalText())
  return { kind, parts }
}
