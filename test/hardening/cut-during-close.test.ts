import t from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { numbers } from '../helpers/numbers.ts'
import { resumeUntilEnd } from '../helpers/resume-until-end.ts'
import { sendSse, type SseClient } from '../helpers/sse-client.ts'
import { startApp, type App } from '../helpers/start-app.ts'
import { StepGate } from '../helpers/step-gate.ts'
import { FAULTS, TcpProxy } from '../helpers/tcp-proxy.ts'

// Later than the frames that a server sends before it has a request: whoever meets a fault here is attached.
const FIRST_BYTES = 120
const STEP_BYTES = 29
const COUNT = 4

interface Faulty {
  readonly client: SseClient
  readonly proxy: TcpProxy
  readonly what: string
}

/** Clients of one stream, each of which meets its fault at another byte of the response. */
async function openFaulty(
  t: Parameters<typeof sendSse>[0],
  app: App,
  protocol: 'http/1.1' | 'h2',
  bytes: number
): Promise<Faulty[]> {
  const faulty: Faulty[] = []
  for (const fault of FAULTS) {
    for (let after = FIRST_BYTES; after <= bytes; after += STEP_BYTES) {
      const proxy = await TcpProxy.start(t, app.port)
      proxy.plan = { direction: 'response', after, fault }
      faulty.push({ client: sendSse(t, proxy.port, '/s', { protocol }), proxy, what: `${fault} after ${after}` })
    }
  }
  return faulty
}

for (const protocol of ['http/1.1', 'h2'] as const) {
  t.test(`close() while clients are cut at every place over ${protocol}`, async (t) => {
    t.test(
      'aborts: each has a prefix, nobody is told that it was all, and the next process says what is lost',
      async (t) => {
        const gate = new StepGate()
        const app = await startApp(
          t,
          (fastify) => fastify.get('/s', (_, reply) => reply.sseFromGenerator(numbers(COUNT, gate), { streamId: 's' })),
          { http2: protocol === 'h2' }
        )
        const steady = await app.open('/s')
        gate.release(2)
        await steady.waitForData(2)
        const faulty = await openFaulty(t, app, protocol, 700)
        await eventually('all have come', () => app.fastify.sseStreams.stats().attached === faulty.length + 1)
        await app.fastify.close()
        t.equal(await steady.waitForEnd(), 'truncated')

        const wrong: string[] = []
        for (const { client, what } of faulty) {
          await client.drop()
          const { data } = client
          if (data.join() !== ['1', '2'].slice(0, data.length).join()) wrong.push(`${what}: ${data.join()}`)
          if (client.text.includes('stream-end') || client.text.includes('.end')) wrong.push(`${what}: told of an end`)
          if (client.text.includes('stream-error')) wrong.push(`${what}: told of an error`)
        }
        t.strictSame(wrong, [])

        const next = await startApp(
          t,
          (fastify) => fastify.get('/s', (_, reply) => reply.sseFromGenerator(numbers(1), { streamId: 's' })),
          { http2: protocol === 'h2' }
        )
        const proxy = await TcpProxy.start(t, next.port)
        const lost = await resumeUntilEnd(t, proxy, '/s', { protocol, lastEventId: steady.lastEventId }, [])
        t.match(lost.gaps, [{ data: '{"reason":"lost","missed":null,"resumesAt":null}' }])
        t.strictSame(lost.data, [])
      }
    )

    t.test('drains: whoever has a clean end has everything, and the others were cut short', async (t) => {
      const gate = new StepGate()
      const app = await startApp(
        t,
        (fastify) => fastify.get('/s', (_, reply) => reply.sseFromGenerator(numbers(COUNT, gate), { streamId: 's' })),
        { http2: protocol === 'h2', plugin: { drainTimeout: 5_000 } }
      )
      const steady = await app.open('/s')
      gate.release(2)
      await steady.waitForData(2)
      const faulty = await openFaulty(t, app, protocol, 900)
      await eventually('all have come', () => app.fastify.sseStreams.stats().attached === faulty.length + 1)
      const closing = app.fastify.close()
      gate.release(COUNT)
      await closing
      t.equal(await steady.waitForEnd(), 'end')
      t.strictSame(steady.data, ['1', '2', '3', '4'])

      const wrong: string[] = []
      for (const { client, what } of faulty) {
        await client.drop()
        const { data } = client
        if (data.join() !== ['1', '2', '3', '4'].slice(0, data.length).join()) wrong.push(`${what}: ${data.join()}`)
        const hasEnd = client.events.at(-1)?.event === 'stream-end'
        if (hasEnd && data.length !== COUNT) wrong.push(`${what}: an end after ${data.length} events`)
      }
      t.strictSame(wrong, [])
    })
  })
}
