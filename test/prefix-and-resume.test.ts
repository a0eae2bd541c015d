import assert from 'node:assert/strict'
import { createParser } from 'eventsource-parser'
import fc from 'fast-check'
import { test, type Test } from 'tap'
import type { SseInput, StreamPluginOptions } from '../src/index.ts'
import { numbers, numbersFrom } from './helpers/numbers.ts'
import { startApp, type App } from './helpers/start-app.ts'
import { StepGate } from './helpers/step-gate.ts'
import { turnsUntil } from './helpers/turns.ts'

// For every k: what a client has of a response that was cut after k, and what it gets when it comes back, is the whole.

interface Read {
  /** What an application sees: events of the generator, and how it ended. */
  readonly events: string[]
  readonly lastEventId: string | undefined
}

/** What an independent client makes of a body, whole or cut anywhere. */
function read(body: Buffer): Read {
  const events: string[] = []
  let lastEventId: string | undefined
  const parser = createParser({
    onEvent: ({ event, data, id }) => {
      if (id !== undefined) lastEventId = id
      if (event !== 'stream-start') events.push(JSON.stringify([event, data]))
    }
  })
  parser.feed(new TextDecoder().decode(body, { stream: true }))
  return { events, lastEventId }
}

function createApp(t: Test, messages: readonly SseInput[], plugin: StreamPluginOptions = {}): Promise<App> {
  return startApp(
    t,
    (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(() => messages, { streamId: 'a' })),
    { plugin }
  )
}

async function get(app: App, lastEventId?: string): Promise<Buffer> {
  const headers = lastEventId === undefined ? {} : { 'last-event-id': lastEventId }
  const { rawPayload } = await app.inject({ url: '/', headers })
  return rawPayload
}

async function assertResumes(app: App, whole: Buffer, bytes: number): Promise<void> {
  const prefix = read(whole.subarray(0, bytes))
  const rest = read(await get(app, prefix.lastEventId))
  // Whoever was cut before its first id comes back as a new client.
  const before = prefix.lastEventId === undefined ? [] : prefix.events
  assert.deepEqual([...before, ...rest.events], read(whole).events, `cut after ${bytes} bytes`)
}

const EXAMPLES: readonly SseInput[] = [
  'one',
  '',
  'two\nlines',
  '\r\n',
  { data: { a: [1, 'ü', '🚀'] }, event: 'object' },
  { data: 'x', comment: 'a comment\nof two lines', retry: 5_000 },
  'data: not a field\nid: nor this'
]

test('a response that is cut after any byte is completed by what follows', async (t) => {
  const app = await createApp(t, EXAMPLES)
  const whole = await get(app)
  t.equal(read(whole).events.length, EXAMPLES.length + 1)
  for (let bytes = 0; bytes <= whole.length; bytes++) await assertResumes(app, whole, bytes)
})

test('so is one of a stream that fails', async (t) => {
  const app = await startApp(t, (fastify) =>
    fastify.get('/', (_, reply) =>
      reply.sseFromGenerator(
        async function* () {
          yield* EXAMPLES
          throw new Error('secret')
        },
        { streamId: 'a' }
      )
    )
  )
  const whole = await get(app)
  t.equal(read(whole).events.length, EXAMPLES.length + 2)
  for (let bytes = 0; bytes <= whole.length; bytes++) await assertResumes(app, whole, bytes)
})

test('so is one of an unnamed stream, as soon as it has its first id', async (t) => {
  let runs = 0
  const app = await startApp(t, (fastify) =>
    fastify.get('/', (_, reply) =>
      reply.sseFromGenerator(() => {
        runs += 1
        return EXAMPLES
      })
    )
  )
  const whole = await get(app)
  const first = whole.indexOf('\n\n') + 2
  for (let bytes = first; bytes <= whole.length; bytes++) await assertResumes(app, whole, bytes)
  t.equal(runs, 1)
})

const message: fc.Arbitrary<SseInput> = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 200 }),
  fc.record(
    {
      data: fc.oneof(fc.string({ unit: 'binary' }), fc.jsonValue()),
      event: fc.stringMatching(/^[a-z]{1,12}$/),
      comment: fc.string(),
      retry: fc.nat()
    },
    { requiredKeys: ['data'] }
  )
)

test('whatever is yielded, and wherever it is cut', async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(message, { maxLength: 30 }),
      fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 8 }),
      async (messages, shares) => {
        const app = await createApp(t, messages)
        const whole = await get(app)
        assert.equal(read(whole).events.length, messages.length + 1)
        for (const share of shares) await assertResumes(app, whole, Math.floor(share * whole.length))
        await app.close()
      }
    ),
    { numRuns: 60 }
  )
})

test('a log that has lost its beginning is completed by the gap, with the exact number', async (t) => {
  const app = await createApp(t, [], { bufferSize: 20 })
  await app.streams.start(numbers(50), { streamId: 'a' })
  await turnsUntil('the end', () => app.streams.get('a')?.state === 'finished')
  await app.untilShared('a')
  const epoch = read(await get(app)).lastEventId?.split('.')[0] as string
  for (let k = 0; k <= 50; k++) {
    const { events } = read(await get(app, `${epoch}.${k}`))
    const data = events.map((event) => JSON.parse(event) as [string | undefined, string])
    const gap = data[0]?.[0] === 'stream-gap' ? (JSON.parse(data.shift()?.[1] as string) as object) : undefined
    t.strictSame(gap, k < 30 ? { reason: 'trimmed', missed: 30 - k, resumesAt: 31 } : undefined)
    t.strictSame(
      data.slice(0, -1).map(([, value]) => value),
      numbersFrom(Math.max(31, k + 1), 50)
    )
  }
})

for (const protocol of ['http/1.1', 'h2'] as const) {
  test(`a live stream over ${protocol} is whole after a drop at any event`, async (t) => {
    const COUNT = 8
    const gates = new Map<string, StepGate>()
    const { open } = await startApp(
      t,
      (fastify) => {
        fastify.get<{ Params: { name: string } }>('/:name', ({ params: { name } }, reply) =>
          reply.sseFromGenerator(numbers(COUNT, gates.get(name)), { streamId: name })
        )
      },
      { http2: protocol === 'h2' }
    )
    for (let k = 0; k <= COUNT; k++) {
      const gate = new StepGate()
      gates.set(`k${k}`, gate)
      const first = await open(`/k${k}`)
      await first.waitFor('stream-start')
      gate.release(k)
      const before = [...(await first.waitForData(k))]
      const second = await first.reconnect()
      gate.release(COUNT - k)
      await second.waitForEnd()
      t.strictSame([...before, ...second.data], numbersFrom(1, COUNT), `dropped after ${k}`)
    }
  })
}
