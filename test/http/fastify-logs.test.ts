import t, { type Test } from 'tap'
import type { SseInput, StreamOptions } from '../../src/index.ts'
import { eventually } from '../helpers/eventually.ts'
import { LogLines } from '../helpers/log-lines.ts'
import { numbers } from '../helpers/numbers.ts'
import { startApp, type App, type AppOptions } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'

type Line = Record<string, unknown> & { readonly level: number; readonly msg?: string }
const [DEBUG, INFO, WARN, ERROR] = [20, 30, 40, 50]

interface Logged {
  readonly app: App
  readonly lines: Line[]
  /** The one line at the end of a stream. */
  finish(): Promise<Line>
}

async function start(
  t: Test,
  handler: (signal: AbortSignal) => AsyncIterable<SseInput>,
  options: StreamOptions = {},
  appOptions: AppOptions = {}
): Promise<Logged> {
  const lines: Line[] = []
  const logger = { level: 'trace', stream: { write: (line: string) => void lines.push(JSON.parse(line)) } }
  const app = await startApp(t, (fastify) => fastify.get('/', (_, reply) => reply.sseFromGenerator(handler, options)), {
    ...appOptions,
    fastify: { logger, ...appOptions.fastify }
  })
  const finish = async (): Promise<Line> => {
    const isFinish = (line: Line): boolean => 'outcome' in line
    await eventually('the line at the end', () => lines.some(isFinish))
    return lines.find(isFinish) as Line
  }
  return { app, lines, finish }
}

const keys = ['streamId', 'outcome', 'events', 'bytes', 'durationMs', 'clients']

t.test('the end of a stream is one info line with fixed keys', async (t) => {
  const { app, lines, finish } = await start(t, numbers(3), { streamId: 's' })
  const client = await app.open('/')
  await client.waitForEnd()
  const line = await finish()
  t.equal(line.level, INFO)
  t.match(line, { streamId: 's', outcome: 'completed', events: 3, bytes: Number, durationMs: Number, clients: 1 })
  const own = Object.keys(line).filter((key) => !['level', 'time', 'pid', 'hostname', 'reqId', 'msg'].includes(key))
  t.same(own.toSorted(), keys.toSorted())
  t.equal(lines.filter((line) => 'outcome' in line).length, 1)
})

t.test('a failure logs its full error, once', async (t) => {
  const { app, lines, finish } = await start(
    t,
    async function* () {
      yield 'a'
      throw Object.assign(new Error('the database said no'), { detail: 7 })
    },
    { streamId: 's' }
  )
  await (await app.open('/')).waitForEnd()
  t.match(await finish(), { level: INFO, outcome: 'failed', events: Number })
  const errors = lines.filter(({ level }) => level >= WARN)
  t.equal(errors.length, 1)
  t.match(errors[0], {
    level: ERROR,
    streamId: 's',
    err: { message: 'the database said no', detail: 7, stack: String }
  })
})

t.test('an abort is no error', async (t) => {
  const { app, lines, finish } = await start(t, numbers(1, new StepGate()), { streamId: 's' })
  const client = await app.open('/')
  await client.next()
  await app.fastify.sseStreams.abort('s')
  await client.waitForEnd()
  t.match(await finish(), { level: INFO, outcome: 'aborted' })
  t.same(
    lines.filter(({ level }) => level >= WARN),
    []
  )
})

for (const http2 of [false, true]) {
  t.test(`a client that leaves is a debug line on ${http2 ? 'HTTP/2' : 'HTTP/1.1'}, and nothing above`, async (t) => {
    const { app, lines } = await start(t, numbers(1, new StepGate()), { streamId: 's' }, { http2 })
    const client = await app.open('/')
    await client.next()
    const before = lines.length
    await client.drop()
    await eventually('it has left', () => app.fastify.sseStreams.get('s')?.clients === 0)
    const since = lines.slice(before)
    t.ok(since.some(({ level, streamId }) => level === DEBUG && streamId === 's'))
    t.same(
      since.filter(({ level, msg }) => level >= WARN || /premature/.test(msg ?? '')),
      []
    )
  })

  t.test(`neither a clean end nor a truncation upsets Fastify on ${http2 ? 'HTTP/2' : 'HTTP/1.1'}`, async (t) => {
    const gate = new StepGate()
    const { app, lines } = await start(t, numbers(1, gate), { streamId: 's' }, { http2 })
    const client = await app.open('/')
    await client.next()
    gate.release(1)
    await client.waitForEnd()
    await app.fastify.sseStreams.start(numbers(1, new StepGate()), { streamId: 'other' })
    await app.fastify.close()
    t.same(
      lines.filter(({ level, msg }) => level >= WARN || /premature/.test(msg ?? '')),
      []
    )
  })
}

t.test('no log line at any level shows a payload, a cursor or an epoch', async (t) => {
  const gate = new StepGate()
  const { app, lines, finish } = await start(t, async function* (signal) {
    await gate.pass(signal)
    yield 'my secret payload'
    await gate.pass(signal)
    yield { event: 'token', data: { text: 'my secret payload' } }
  })
  const first = await app.open('/')
  gate.release(1)
  await first.waitForData(1)
  const cursor = first.lastEventId ?? ''
  const epoch = cursor.split('.')[0] ?? ''
  const second = await first.reconnect()
  gate.release(1)
  await second.waitForEnd()
  await finish()
  await second.reconnect()
  await app.open('/', { lastEventId: `${epoch}.999` })
  await app.fastify.close()
  const text = lines.map((line) => JSON.stringify(line)).join('\n')
  t.match(epoch, /^[\w-]{22}$/)
  t.notOk(text.includes(epoch), 'no epoch')
  t.notOk(text.includes('my secret'), 'no payload')
})

t.test('the context of a handler has a logger', async (t) => {
  const lines: Line[] = []
  const logger = { stream: { write: (line: string) => void lines.push(JSON.parse(line)) } }
  const app = await startApp(
    t,
    (fastify) =>
      fastify.get('/', (_, reply) =>
        reply.sseFromGenerator(
          async function* (_signal, { log, streamId }) {
            log.info({ mine: streamId }, 'from the generator')
            yield 'a'
          },
          { streamId: 's' }
        )
      ),
    { fastify: { logger } }
  )
  await (await app.open('/')).waitForEnd()
  t.ok(lines.some(({ mine }) => mine === 's'))
})

t.test('a logger that throws does not take the stream along', async (t) => {
  const { app } = await start(t, async function* () {
    yield 'a'
    throw {
      get message() {
        throw new Error('getter')
      }
    }
  })
  const client = await app.open('/')
  t.equal(await client.waitForEnd(), 'end')
  t.equal(client.events.at(-1)?.data, '{"outcome":"failed"}')
})

t.test('a second answer to one request starts nothing, and Fastify says so', async (t) => {
  const logs = new LogLines()
  const second = numbers(1)
  const app = await startApp(
    t,
    (fastify) => {
      fastify.get('/twice', async (_, reply) => {
        await reply.sseFromGenerator(numbers(2), { streamId: 'first' })
        return reply.sseFromGenerator(second, { streamId: 'second' })
      })
      fastify.get('/after', (_, reply) => {
        reply.send('mine')
        reply.sseFromGenerator(second, { streamId: 'second' })
        reply.sseAttach('second')
      })
    },
    { fastify: logs.fastify }
  )
  const twice = await app.open('/twice')
  t.equal(await twice.waitForEnd(), 'end')
  t.same(twice.data, ['1', '2'])
  t.equal(await (await fetch(`http://127.0.0.1:${app.port}/after`)).text(), 'mine')
  t.match(app.streams.stats(), { started: 1, attached: 1 })
  const warnings = logs.lines.filter(({ level }) => level === WARN)
  t.same(
    warnings.map(({ err }) => (err as { code: string }).code),
    Array.from({ length: 3 }, () => 'FST_ERR_REP_ALREADY_SENT')
  )
})
