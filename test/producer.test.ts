import { AsyncLocalStorage } from 'node:async_hooks'
import { test } from 'tap'
import { Producer, type Frame, type ProducerSink, type Start } from '../src/producer.ts'
import { Turn } from '../src/turn.ts'
import { collectGarbage } from './helpers/collect-garbage.ts'
import { createDeferred } from './helpers/deferred.ts'
import { ManualClock } from './helpers/manual-clock.ts'
import { turn, turnsUntil } from './helpers/turns.ts'

/** Takes everything, unless it is told that there is no room; `'bad'` is no event. */
class RecordingSink implements ProducerSink {
  readonly texts: string[] = []
  readonly failures: unknown[] = []
  readonly closeFailures: unknown[] = []
  done = 0
  released = 0
  hasRoom = true
  onEncode: (value: unknown) => void = () => {}

  encode(value: unknown): Frame {
    this.onEncode(value)
    if (typeof value !== 'string' || value === 'bad') throw new Error(`no event: ${String(value)}`)
    return { text: value, bytes: value.length }
  }

  tryAppend({ text }: Frame): boolean {
    if (this.hasRoom) this.texts.push(text)
    return this.hasRoom
  }

  onDone(): void {
    this.done += 1
  }

  onFailed(error: unknown): void {
    this.failures.push(error)
  }

  onCloseFailed(error: unknown): void {
    this.closeFailures.push(error)
  }

  onReleased(): void {
    this.released += 1
  }
}

function create(start: Start): { producer: Producer; sink: RecordingSink } {
  const sink = new RecordingSink()
  const producer = new Producer(sink, new Turn(new ManualClock()))
  producer.call(start)
  return { producer, sink }
}

/** Runs what `start` makes, until it has let go or waits for something. */
async function run(start: Start): Promise<RecordingSink> {
  const { producer, sink } = create(start)
  producer.pull()
  await turn()
  return sink
}

/** An async iterator of nothing but these methods. */
function iterable(methods: object): AsyncIterable<unknown> {
  return { [Symbol.asyncIterator]: () => methods as AsyncIterator<unknown> }
}

const abortError = (): DOMException => new DOMException('stop', 'AbortError')

const never = new Promise<never>(() => {})

// ── what a handler may return ────────────────────────────────────────────────────────────────────────────────────────

for (const [what, start] of [
  [
    'an async generator',
    async function* () {
      yield 'a'
      yield 'b'
    }
  ],
  [
    'a generator',
    function* () {
      yield 'a'
      yield 'b'
    }
  ],
  ['an array', () => ['a', 'b']],
  ['a promise of an iterable', async () => new Set(['a', 'b'])],
  ['a promise of an async iterable', async () => ReadableStream.from(['a', 'b'])],
  ['an iterator of one method', () => iterable({ next: step('a', 'b') })],
  [
    'both kinds of iterable, of which the async one counts',
    () => ({ ...iterable({ next: step('a', 'b') }), [Symbol.iterator]: () => ['c'][Symbol.iterator]() })
  ]
] as const) {
  test(`a handler may return ${what}`, async (t) => {
    const sink = await run(start)
    t.strictSame(sink.texts, ['a', 'b'])
    t.equal(sink.done, 1)
    t.equal(sink.released, 1)
    t.strictSame(sink.failures, [])
  })
}

function step(...values: string[]): () => Promise<object> {
  return async () => (values.length > 0 ? { value: values.shift() } : { done: true })
}

test('nothing is pulled before it is asked for', async (t) => {
  let pulled = 0
  const { producer } = create(() =>
    iterable({
      next: async () => {
        pulled += 1
        return { done: true }
      }
    })
  )
  await turn()
  t.equal(pulled, 0)
  producer.pull()
  t.equal(pulled, 0, 'not even on this stack')
  await turn()
  t.equal(pulled, 1)
})

for (const value of [undefined, null, 1, true, {}, () => {}, Symbol('x')]) {
  test(`a handler that returns ${String(value)} fails, and says so`, async (t) => {
    const sink = await run(() => value)
    t.match(sink.failures, [{ code: 'FST_ERR_RSSE_HANDLER_INVALID', message: /Return a generator/ }])
    t.equal(sink.released, 1)
  })
}

for (const [what, value] of [
  ['an iterable whose iterator is no object', { [Symbol.asyncIterator]: () => 'x' }],
  ['an iterable whose iterator is null', { [Symbol.iterator]: () => null }]
] as const) {
  test(`a handler that returns ${what} fails`, async (t) => {
    const sink = await run(() => value)
    t.match(sink.failures, [{ code: 'FST_ERR_RSSE_HANDLER_INVALID' }])
  })
}

test('an iterable that throws when it is asked for its iterator fails', async (t) => {
  const error = new Error('mine')
  const fail = (): never => {
    throw error
  }
  const hostile = {
    get [Symbol.asyncIterator]() {
      return fail()
    }
  }
  for (const value of [{ [Symbol.asyncIterator]: fail }, hostile]) {
    const sink = await run(() => value)
    t.strictSame(sink.failures, [error])
    t.equal(sink.released, 1)
  }
})

test('a handler that throws at once is not started', async (t) => {
  const error = new Error('mine')
  t.throws(
    () =>
      create(() => {
        throw error
      }),
    error
  )
})

test('a handler whose promise rejects fails', async (t) => {
  for (const error of [new Error('mine'), undefined, null, 'text']) {
    const sink = await run(() => Promise.reject(error))
    t.strictSame(sink.failures, [error])
    t.equal(sink.released, 1)
  }
})

// ── steps ────────────────────────────────────────────────────────────────────────────────────────────────────────────

for (const [what, error] of [
  ['an error', new Error('mine')],
  ['undefined', undefined],
  ['a string', 'text'],
  ['a frozen object', Object.freeze({})]
] as const) {
  test(`a generator that throws ${what} between events fails with it`, async (t) => {
    const sink = await run(async function* () {
      yield 'a'
      // oxlint-disable-next-line no-throw-literal -- users throw anything
      throw error
    })
    t.strictSame(sink.texts, ['a'])
    t.strictSame(sink.failures, [error])
    t.equal(sink.released, 1)
  })

  test(`an iterator that throws ${what} synchronously fails with it`, async (t) => {
    const sink = await run(() =>
      iterable({
        next: () => {
          throw error
        }
      })
    )
    t.strictSame(sink.failures, [error])
    t.equal(sink.released, 1)
  })
}

test('a step that is no object fails', async (t) => {
  for (const made of [1, null, undefined, 'x', true]) {
    for (const next of [() => made, async () => made]) {
      const sink = await run(() => iterable({ next }))
      t.equal(sink.failures.length, 1, String(made))
      t.equal(sink.released, 1)
      t.strictSame(sink.texts, [])
    }
  }
})

test('a step whose getters throw fails', async (t) => {
  const error = new Error('mine')
  const hostile = (name: string): object =>
    Object.defineProperty({}, name, {
      get() {
        throw error
      }
    })
  for (const name of ['done', 'value']) {
    const sink = await run(() => iterable({ next: () => hostile(name) }))
    t.strictSame(sink.failures, [error], name)
    t.equal(sink.released, 1)
  }
  // What throws when it is asked whether it is a promise is none, and a step without a value.
  const sink = await run(() => iterable({ next: () => hostile('then') }))
  t.equal(sink.failures.length, 1)
  t.equal(sink.released, 1)
})

test('what a synchronous iterable yields is awaited, as for await does', async (t) => {
  const sink = await run(() => [Promise.resolve('a'), 'b', (async () => 'c')()])
  t.strictSame(sink.texts, ['a', 'b', 'c'])
  t.equal(sink.done, 1)
})

test('a promise that a synchronous generator yields and that rejects fails the stream, and runs finally', async (t) => {
  const error = new Error('mine')
  let isClosed = false
  const sink = await run(function* () {
    try {
      yield Promise.reject(error)
      yield 'never'
    } finally {
      isClosed = true
    }
  })
  t.strictSame(sink.failures, [error])
  t.strictSame(sink.texts, [])
  t.ok(isClosed)
  t.equal(sink.released, 1)
})

test('a promise that a synchronous generator yields may settle after the abort', async (t) => {
  for (const settle of [() => 'late', () => Promise.reject(new Error('late'))]) {
    const { promise, resolve } = createDeferred<unknown>()
    const { producer, sink } = create(function* () {
      yield promise
    })
    producer.pull()
    await turn()
    producer.abort(abortError())
    resolve(settle())
    await turn()
    t.strictSame(sink.texts, [])
    t.strictSame(sink.failures, [])
    t.equal(sink.released, 1)
  }
})

test('an iterable that its handler brings after everybody has let go is closed, whatever it is', async (t) => {
  let closed = 0
  const late = iterable({
    next: () => never,
    return: async () => {
      closed += 1
      throw new Error('nobody is left to tell')
    }
  })
  for (const value of [late, 42, undefined]) {
    const { promise, resolve } = createDeferred<unknown>()
    const { producer, sink } = create(() => promise)
    producer.pull()
    producer.abort(abortError())
    producer.release()
    resolve(value)
    await turn()
    t.equal(sink.released, 1)
  }
  t.equal(closed, 1)
})

test('an iterator without next fails', async (t) => {
  const sink = await run(() => iterable({}))
  t.equal(sink.failures.length, 1)
  t.equal(sink.released, 1)
})

test('a thenable that is no promise is a step', async (t) => {
  const steps = [{ value: 'a' }, { done: true }]
  const next = (): object => ({ then: (resolve: (step: unknown) => void) => resolve(steps.shift()) })
  const sink = await run(() => iterable({ next }))
  t.strictSame(sink.texts, ['a'])
  t.equal(sink.done, 1)
})

test('what a generator returns is no event', async (t) => {
  const sink = await run(async function* () {
    yield 'a'
    return 'b'
  })
  t.strictSame(sink.texts, ['a'])
})

// ── values that are no events ────────────────────────────────────────────────────────────────────────────────────────

test('a value that is no event is thrown at its yield, and the generator may catch it and go on', async (t) => {
  const caught: unknown[] = []
  const sink = await run(async function* () {
    yield 'a'
    try {
      yield 'bad'
    } catch (error) {
      caught.push((error as Error).message)
    }
    yield 'b'
  })
  t.strictSame(caught, ['no event: bad'])
  t.strictSame(sink.texts, ['a', 'b'])
  t.equal(sink.done, 1)
})

test('the same in a generator that is not async', async (t) => {
  const sink = await run(function* () {
    try {
      yield 'bad'
    } catch {
      yield 'caught'
    }
    yield 'b'
  })
  t.strictSame(sink.texts, ['caught', 'b'])
})

test('what throw() returns is the next value', async (t) => {
  const values = ['bad', 'b']
  const sink = await run(() =>
    iterable({
      next: async () => (values.length > 0 ? { value: values.shift() } : { done: true }),
      throw: async () => ({ value: 'from throw' })
    })
  )
  t.strictSame(sink.texts, ['from throw', 'b'])
})

test('a throw() that says done ends the stream', async (t) => {
  const sink = await run(() => iterable({ next: async () => ({ value: 'bad' }), throw: async () => ({ done: true }) }))
  t.equal(sink.done, 1)
  t.strictSame(sink.failures, [])
})

test('one that is not caught fails the stream, and runs finally', async (t) => {
  let closed = false
  const sink = await run(async function* () {
    try {
      yield 'bad'
    } finally {
      closed = true
    }
  })
  t.match(sink.failures, [{ message: 'no event: bad' }])
  t.ok(closed)
  t.equal(sink.released, 1)
})

test('an iterator without throw, or with a hostile one, fails and is closed', async (t) => {
  const hostile = {
    get throw() {
      throw new Error('mine')
    }
  }
  for (const methods of [{}, { throw: 1 }, hostile]) {
    let closed = 0
    const iterator = Object.defineProperties(
      {
        next: async () => ({ value: 'bad' }),
        return: async () => {
          closed += 1
          return { done: true }
        }
      },
      Object.getOwnPropertyDescriptors(methods)
    )
    const sink = await run(() => iterable(iterator))
    t.match(sink.failures, [{ message: 'no event: bad' }])
    t.equal(closed, 1)
    t.equal(sink.released, 1)
  }
})

test('whoever fails for what it yielded sees its signal abort as always, with what was wrong as the cause', async (t) => {
  let reason: unknown
  await run((signal) => {
    signal.addEventListener('abort', () => (reason = signal.reason))
    return iterable({ next: async () => ({ value: 'bad' }) })
  })
  t.ok(reason instanceof DOMException)
  t.match(reason, { name: 'AbortError', cause: { message: 'no event: bad' } })
})

test('a generator that catches and yields the same for ever does not starve the event loop', async (t) => {
  const { producer, sink } = create(function* () {
    for (;;) {
      try {
        yield 'bad'
      } catch {}
    }
  })
  producer.pull()
  await turn()
  t.equal(sink.released, 0)
  producer.abort(abortError())
  await turn()
  t.equal(sink.released, 1)
})

test('a generator that yields without a pause has its step in every turn, though others spend them', async (t) => {
  const clock = new ManualClock()
  const shared = new Turn(clock)
  const sink = new RecordingSink()
  const producer = new Producer(sink, shared)
  producer.call(function* () {
    for (let n = 1; ; n++) yield String(n)
  })
  // A replay that takes all the time there is, again and again.
  let isOver = false
  const replay = {
    run: () => {
      clock.advance(10)
      if (!isOver) shared.later(replay)
    }
  }
  shared.later(replay)
  producer.pull()
  for (let count = 0; count < 5; count++) {
    const before = sink.texts.length
    await turn()
    t.ok(sink.texts.length > before)
  }
  producer.release()
  isOver = true
})

// ── room ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

test('without room the generator is not pulled, and goes on where it was', async (t) => {
  let made = 0
  const { producer, sink } = create(async function* () {
    for (;;) yield String(++made)
  })
  sink.hasRoom = false
  producer.pull()
  await turn()
  t.ok(producer.isWaiting)
  t.equal(made, 1)
  producer.resume()
  await turn()
  t.equal(made, 1)
  t.ok(producer.isWaiting)
  sink.hasRoom = true
  producer.resume()
  sink.hasRoom = false
  await turn()
  t.strictSame(sink.texts, ['1'])
  t.equal(made, 2)
  producer.abort(abortError())
  t.notOk(producer.isWaiting)
  sink.hasRoom = true
  producer.resume()
  await turn()
  t.strictSame(sink.texts, ['1'], 'what waits at an abort is discarded')
  t.equal(sink.released, 1)
})

test('resume without anything that waits does nothing', async (t) => {
  const { producer, sink } = create(() => ['a'])
  producer.resume()
  producer.pull()
  await turn()
  producer.resume()
  await turn()
  t.strictSame(sink.texts, ['a'])
})

for (const [what, start] of [
  [
    'a generator without awaits',
    function* () {
      for (;;) yield 'x'
    }
  ],
  [
    'an async generator without real awaits',
    async function* () {
      for (;;) yield 'x'
    }
  ]
] as const) {
  test(`${what} lets the event loop turn`, async (t) => {
    const { producer, sink } = create(start)
    producer.pull()
    await turn()
    const before = sink.texts.length
    t.ok(before > 0)
    await turn()
    t.ok(sink.texts.length > before)
    producer.abort(abortError())
    await turn()
    const after = sink.texts.length
    await turn()
    t.equal(sink.texts.length, after)
    t.equal(sink.released, 1)
  })
}

// ── abort ────────────────────────────────────────────────────────────────────────────────────────────────────────────

test('an abort reaches the signal with its reason, and runs finally', async (t) => {
  const reason = abortError()
  let seen: unknown
  const { producer, sink } = create(async function* (signal) {
    try {
      yield 'a'
      await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    } catch (error) {
      seen = error
      throw error
    }
  })
  producer.pull()
  await turn()
  producer.abort(reason)
  await turn()
  t.equal(seen, reason)
  t.strictSame(sink.failures, [], 'whoever aborts knows that it does')
  t.equal(sink.released, 1)
})

test('an abort before the first pull closes what the handler made', async (t) => {
  let closed = false
  const { producer, sink } = create(() =>
    iterable({
      next: async () => ({ value: 'a' }),
      return: async () => {
        closed = true
        return { done: true }
      }
    })
  )
  producer.abort(abortError())
  await turn()
  t.ok(closed)
  t.strictSame(sink.texts, [])
  t.equal(sink.released, 1)
})

test('an abort without a call releases at once', async (t) => {
  const sink = new RecordingSink()
  new Producer(sink, new Turn(new ManualClock())).abort(abortError())
  t.equal(sink.released, 1)
})

test("an abort while the handler's promise is pending closes what it brings", async (t) => {
  const { promise, resolve } = createDeferred<unknown>()
  const { producer, sink } = create(() => promise)
  producer.pull()
  await turn()
  producer.abort(abortError())
  await turn()
  t.equal(sink.released, 0)
  let closed = false
  let pulled = false
  resolve(
    iterable({
      next: async () => {
        pulled = true
        return { done: true }
      },
      return: async () => {
        closed = true
        return { done: true }
      }
    })
  )
  await turn()
  t.ok(closed)
  t.notOk(pulled)
  t.equal(sink.released, 1)
})

test("an abort while the handler's promise is pending survives that it rejects, or brings no iterable", async (t) => {
  for (const settle of [() => Promise.reject(new Error('mine')), () => 42]) {
    const { promise, resolve } = createDeferred<unknown>()
    const { producer, sink } = create(() => promise)
    producer.pull()
    producer.abort(abortError())
    resolve(settle())
    await turn()
    t.equal(sink.released, 1)
    t.strictSame(sink.failures, [])
  }
})

test('a value that comes after the abort is discarded', async (t) => {
  const { promise, resolve } = createDeferred<string>()
  const { producer, sink } = create(async function* () {
    yield 'a'
    yield await promise
    yield 'c'
  })
  producer.pull()
  await turn()
  producer.abort(abortError())
  resolve('b')
  await turn()
  t.strictSame(sink.texts, ['a'])
  t.equal(sink.released, 1)
})

test('what a generator yields from its finally is discarded', async (t) => {
  const { producer, sink } = create(async function* () {
    try {
      yield 'a'
      await never
    } finally {
      yield 'too late'
    }
  })
  sink.hasRoom = false
  producer.pull()
  await turn()
  producer.abort(abortError())
  await turn()
  t.strictSame(sink.texts, [])
  t.equal(sink.released, 1)
})

test('a generator may abort its own stream, synchronously', async (t) => {
  const sink = new RecordingSink()
  const producer = new Producer(sink, new Turn(new ManualClock()))
  let closed = false
  producer.call(function* () {
    try {
      yield 'a'
      producer.abort(abortError())
      yield 'b'
      yield 'c'
    } finally {
      closed = true
    }
  })
  producer.pull()
  await turn()
  t.strictSame(sink.texts, ['a'])
  t.ok(closed)
  t.equal(sink.released, 1)
  t.strictSame(sink.closeFailures, [])
})

test('an async generator may abort its own stream, before and after its first await', async (t) => {
  for (const isLate of [false, true]) {
    const sink = new RecordingSink()
    const producer = new Producer(sink, new Turn(new ManualClock()))
    let closed = false
    producer.call(async function* () {
      try {
        yield 'a'
        if (isLate) await null
        producer.abort(abortError())
        yield 'b'
        yield 'c'
      } finally {
        closed = true
      }
    })
    producer.pull()
    await turn()
    t.strictSame(sink.texts, ['a'])
    t.ok(closed)
    t.equal(sink.released, 1)
  }
})

test('map or serialize may abort the stream', async (t) => {
  let closed = 0
  const { producer, sink } = create(async function* () {
    try {
      yield 'a'
      yield 'b'
    } finally {
      closed += 1
    }
  })
  sink.onEncode = () => producer.abort(abortError())
  producer.pull()
  await turn()
  t.strictSame(sink.texts, [])
  t.equal(closed, 1)
  t.equal(sink.released, 1)
})

test('an iterator without return is let go at once', async (t) => {
  const { producer, sink } = create(() => iterable({ next: () => never }))
  producer.pull()
  await turn()
  producer.abort(abortError())
  t.equal(sink.released, 1)
})

test('an iterator whose return never settles holds on until it is let go', async (t) => {
  const { producer, sink } = create(() => iterable({ next: () => never, return: () => never }))
  producer.pull()
  await turn()
  producer.abort(abortError())
  await turn()
  t.equal(sink.released, 0)
  t.notOk(producer.isReleased)
  producer.release()
  producer.release()
  t.equal(sink.released, 1)
  t.ok(producer.isReleased)
})

test('a return that throws, rejects, or whose getter throws is told to the sink', async (t) => {
  const error = new Error('mine')
  const fail = (): never => {
    throw error
  }
  const hostile = {
    next: () => never,
    get return() {
      return fail()
    }
  }
  for (const methods of [
    { next: () => never, return: fail },
    { next: () => never, return: () => Promise.reject(error) },
    hostile
  ]) {
    const { producer, sink } = create(() => iterable(methods))
    producer.pull()
    await turn()
    producer.abort(abortError())
    await turn()
    t.strictSame(sink.closeFailures, [error])
    t.equal(sink.released, 1)
  }
})

test('a finally that throws after an abort is told to the sink', async (t) => {
  const { producer, sink } = create(async function* () {
    try {
      yield 'a'
    } finally {
      // oxlint-disable-next-line no-unsafe-finally -- the abuse
      throw new Error('mine')
    }
  })
  sink.hasRoom = false
  producer.pull()
  await turn()
  producer.abort(abortError())
  await turn()
  t.match(sink.closeFailures, [{ message: 'mine' }])
  t.equal(sink.released, 1)
})

test('a return that gives no promise will do', async (t) => {
  const { producer, sink } = create(() => iterable({ next: () => never, return: () => 'whatever' }))
  producer.pull()
  await turn()
  producer.abort(abortError())
  await turn()
  t.equal(sink.released, 1)
})

test('a second abort does nothing, and neither does one after the end', async (t) => {
  let closed = 0
  const { producer, sink } = create(() =>
    iterable({
      next: () => never,
      return: async () => {
        closed += 1
        return { done: true }
      }
    })
  )
  producer.pull()
  await turn()
  producer.abort(abortError())
  producer.abort(abortError())
  await turn()
  producer.abort(abortError())
  t.equal(closed, 1)
  t.equal(sink.released, 1)

  const done = create(() => [])
  done.producer.pull()
  await turn()
  done.producer.abort(abortError())
  t.equal(done.sink.done, 1)
  t.equal(done.sink.released, 1)
})

test('a step that rejects after the release is nobody’s', async (t) => {
  const { promise, reject } = createDeferred<never>()
  const { producer, sink } = create(() => iterable({ next: () => promise, return: () => never }))
  producer.pull()
  await turn()
  producer.abort(abortError())
  producer.release()
  reject(new Error('too late'))
  await turn()
  t.strictSame(sink.failures, [])
  t.equal(sink.released, 1)
})

// ── what a generator finds, and what is left ─────────────────────────────────────────────────────────────────────────

test('a generator may add as many listeners to its signal as it wants', async (t) => {
  const warnings: Error[] = []
  const onWarning = (warning: Error): void => void warnings.push(warning)
  process.on('warning', onWarning)
  t.teardown(() => process.removeListener('warning', onWarning))
  await run((signal) => {
    for (let i = 0; i < 20; i++) signal.addEventListener('abort', () => {})
    return []
  })
  t.strictSame(warnings, [])
})

test('every step runs in the async context of the start, whoever triggers it', async (t) => {
  const storage = new AsyncLocalStorage<string>()
  const seen: [where: string, store: unknown][] = []
  const note = (where: string): void => void seen.push([where, storage.getStore()])
  const sink = new RecordingSink()
  sink.onEncode = () => note('encode')
  const { producer } = storage.run('request', () => {
    const producer = new Producer(sink, new Turn(new ManualClock()))
    producer.call(async (signal) => {
      note('handler')
      await null
      signal.addEventListener('abort', () => note('abort'))
      return iterable({
        next: () => {
          note('next')
          return sink.texts.length % 2 === 0 ? { value: 'sync' } : Promise.resolve({ value: 'async' })
        },
        throw: () => {
          note('throw')
          return { value: 'thrown' }
        },
        return: () => {
          note('return')
          return {}
        }
      })
    })
    producer.pull()
    return { producer }
  })
  sink.hasRoom = false
  await turn()
  await storage.run('drain', async () => {
    for (let i = 0; i < 4; i++) {
      sink.hasRoom = true
      producer.resume()
      sink.hasRoom = false
      await turn()
    }
    sink.onEncode = () => {
      note('encode')
      sink.onEncode = () => note('encode')
      throw new Error('to be thrown into it')
    }
    sink.hasRoom = true
    producer.resume()
    sink.hasRoom = false
    await turn()
  })
  storage.run('abort', () => producer.abort(abortError()))
  await turn()
  const where = new Set(seen.map(([name]) => name))
  t.strictSame([...where].toSorted(), ['abort', 'encode', 'handler', 'next', 'return', 'throw'])
  t.strictSame([...new Set(seen.map(([, store]) => store))], ['request'])
})

test('the async context is kept when a turn is spent', async (t) => {
  const storage = new AsyncLocalStorage<string>()
  const stores = new Set<unknown>()
  const sink = new RecordingSink()
  storage.run('request', () => {
    const producer = new Producer(sink, new Turn(new ManualClock()))
    producer.call(function* () {
      for (let i = 0; i < 10_000; i++) {
        stores.add(storage.getStore())
        yield 'x'
      }
    })
    producer.pull()
  })
  await storage.run('other', () => turnsUntil('the end', () => sink.done === 1))
  t.strictSame([...stores], ['request'])
})

test('a generator that is stuck holds nothing of what it filled', async (t) => {
  const stuck = createDeferred()
  let producer: Producer | undefined
  const references = ((): WeakRef<object>[] => {
    const sink = new RecordingSink()
    producer = new Producer(sink, new Turn(new ManualClock()))
    let signalOf: object | undefined
    producer.call(async function* (signal) {
      signalOf = signal
      yield 'a'
      await stuck.promise
    })
    producer.pull()
    producer.abort(abortError())
    producer.release()
    return [new WeakRef(sink), new WeakRef(signalOf ?? {})]
  })()
  await collectGarbage()
  t.strictSame(
    references.map((reference) => reference.deref()),
    [undefined, undefined]
  )
  t.ok(producer?.isReleased)
  stuck.resolve()
})

test('a producer that is done holds neither generator nor handler', async (t) => {
  const references: WeakRef<object>[] = []
  const { producer, sink } = ((): { producer: Producer; sink: RecordingSink } => {
    const handler = (): AsyncGenerator<string> => {
      const generator = (async function* () {
        yield 'a'
      })()
      references.push(new WeakRef(generator))
      return generator
    }
    references.push(new WeakRef(handler))
    const created = create(handler)
    created.producer.pull()
    return created
  })()
  await turn()
  await collectGarbage()
  t.strictSame(
    references.map((reference) => reference.deref()),
    [undefined, undefined]
  )
  t.equal(sink.done, 1)
  t.ok(producer.isReleased)
})

test('the signal aborts where the run fails by what it yielded, and nobody can tell its iterator', async (t) => {
  let signal: AbortSignal | undefined
  const { producer, sink } = create((given) => {
    signal = given
    return { [Symbol.asyncIterator]: () => ({ next: async () => ({ done: false, value: 'bad' }) }) }
  })
  producer.pull()
  await turn()
  t.equal(sink.failures.length, 1)
  t.equal(signal?.aborted, true)
})
