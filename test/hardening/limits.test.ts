import t from 'tap'
import type { StreamOptions, StreamPluginOptions } from '../../src/index.ts'
import { eventually } from '../helpers/eventually.ts'
import { startApp, type App } from '../helpers/start-app.ts'

// `data: ` + text + LF + `id: ` + epoch of 8 + `.` + sequence of one digit + LF LF
const FRAME_BYTES = 6 + 1 + 4 + 8 + 1 + 1 + 2

function frame(bytes: number): string {
  return 'x'.repeat(bytes - FRAME_BYTES)
}

async function startYielding(
  t: Parameters<typeof startApp>[0],
  events: readonly string[],
  options: StreamOptions,
  plugin: StreamPluginOptions = {}
): Promise<App> {
  const app = await startApp(t, () => {}, { plugin })
  await app.fastify.sseStreams.start(
    async function* () {
      for (const event of events) {
        try {
          yield event
        } catch (error) {
          yield (error as { code: string }).code
        }
      }
    },
    { streamId: 's', backpressure: 'none', ...options }
  )
  await eventually('it has finished', () => app.fastify.sseStreams.get('s')?.state === 'finished')
  return app
}

t.test('maxEventSize: an event of exactly that size passes, one more byte does not', async (t) => {
  const { fastify } = await startYielding(t, [frame(1_000)], { maxEventSize: 1_000 })
  t.equal(fastify.sseStreams.stats().events, 1)
  const over = await startYielding(t, [frame(1_001)], { maxEventSize: 1_000 })
  t.equal(over.fastify.sseStreams.get('s')?.lastSequence, 1)
  t.ok((over.fastify.sseStreams.get('s')?.bufferedBytes ?? 0) < 200, 'only the code of the error is retained')
})

t.test('maxEventSize counts bytes, not characters', async (t) => {
  const text = '€'.repeat(100)
  const size = FRAME_BYTES + 300
  t.equal((await startYielding(t, [text], { maxEventSize: size })).fastify.sseStreams.get('s')?.lastSequence, 1)
  const over = await startYielding(t, [text], { maxEventSize: size - 1 })
  t.ok((over.fastify.sseStreams.get('s')?.bufferedBytes ?? 0) < 200)
})

t.test('bufferBytes: what fits exactly is retained, one more byte pushes the oldest event out', async (t) => {
  const exact = await startYielding(t, [frame(400), frame(600)], { bufferBytes: 1_000 })
  t.match(exact.fastify.sseStreams.get('s'), { firstSequence: 1, lastSequence: 2 })
  const over = await startYielding(t, [frame(400), frame(601)], { bufferBytes: 1_000 })
  t.match(over.fastify.sseStreams.get('s'), { firstSequence: 2, lastSequence: 2 })
  const single = await startYielding(t, [frame(400), frame(1_000)], { bufferBytes: 1_000 })
  t.match(single.fastify.sseStreams.get('s'), { firstSequence: 2, lastSequence: 2, bufferedEvents: 1 })
})

t.test('bufferSize: so many events are retained, and not one more', async (t) => {
  const exact = await startYielding(t, ['1', '2', '3'], { bufferSize: 3 })
  t.match(exact.fastify.sseStreams.get('s'), { firstSequence: 1, bufferedEvents: 3 })
  const over = await startYielding(t, ['1', '2', '3', '4'], { bufferSize: 3 })
  t.match(over.fastify.sseStreams.get('s'), { firstSequence: 2, bufferedEvents: 3 })
  const one = await startYielding(t, ['1', '2'], { bufferSize: 1 })
  t.match(one.fastify.sseStreams.get('s'), { firstSequence: 2, bufferedEvents: 1 })
})

t.test('maxTotalBufferBytes: what all logs hold stays under it, the oldest finished streams give way', async (t) => {
  const maxTotalBufferBytes = 64 * 1024
  const { fastify } = await startApp(t, () => {}, { plugin: { maxTotalBufferBytes } })
  const { sseStreams } = fastify
  for (let index = 0; index < 100; index++) {
    await sseStreams.start(() => [frame(4_000)], { streamId: `s${index}` })
    await eventually('it has finished', () => sseStreams.get(`s${index}`)?.state === 'finished')
    t.ok(sseStreams.stats().bufferedBytes <= maxTotalBufferBytes)
  }
  t.equal(sseStreams.get('s0'), undefined)
  t.ok(sseStreams.size > 10, `${sseStreams.size} are retained`)
})

t.test('limits of one: everything still works, with a gap for whoever comes late', async (t) => {
  const plugin = { bufferSize: 1, maxActiveStreams: 1, maxClientsPerStream: 1, maxTotalBufferBytes: 1 }
  const app = await startYielding(t, ['1', '2'], {}, plugin)
  t.equal(app.fastify.sseStreams.size, 1)
  await app.fastify.sseStreams.start(() => ['x'], { streamId: 'other' })
  t.equal(app.fastify.sseStreams.size, 1)
  t.equal(app.fastify.sseStreams.get('s'), undefined)
})

t.test(
  'maxClientsPerStream, maxStreamsPerOwner and maxActiveStreams: the last one passes, the next does not',
  async (t) => {
    const app = await startApp(
      t,
      (fastify) => {
        fastify.get<{ Params: { id: string } }>('/:id', ({ params: { id } }, reply) =>
          reply.sseFromGenerator(
            async function* (signal) {
              await new Promise((resolve) => signal.addEventListener('abort', resolve))
            },
            { streamId: id }
          )
        )
      },
      { plugin: { maxClientsPerStream: 2, maxStreamsPerOwner: 2, maxActiveStreams: 2, whenFull: 'reject' } }
    )
    const open = async (id: string): Promise<unknown> => {
      const client = await app.open(`/${id}`, { headers: { accept: '*/*' } })
      return client.status === 200 ? 200 : (await client.json())['code']
    }
    t.equal(await open('a'), 200)
    t.equal(await open('a'), 200)
    t.equal(await open('a'), 'FST_ERR_RSSE_TOO_MANY_CLIENTS')
    t.equal(await open('b'), 200)
    t.equal(await open('c'), 'FST_ERR_RSSE_TOO_MANY_STREAMS')
    t.equal(app.fastify.sseStreams.stats().rejected, 2)
    await app.fastify.sseStreams.abort('a')
    t.equal(await open('c'), 200)
  }
)
