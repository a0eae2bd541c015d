import t, { type Test } from 'tap'
import { eventually } from '../helpers/eventually.ts'
import { resumeUntilEnd, shareOut } from '../helpers/resume-until-end.ts'
import type { SseRequest } from '../helpers/sse-client.ts'
import { startApp } from '../helpers/start-app.ts'
import { FAULTS, TcpProxy } from '../helpers/tcp-proxy.ts'

const WORKERS = 12
const events = ['one', 'two', 'three']

const kinds: Record<string, SseRequest> = {
  'GET over HTTP/1.1': { protocol: 'http/1.1' },
  'POST over HTTP/1.1': { protocol: 'http/1.1', body: { question: 'why?' } },
  'POST over HTTP/2': { protocol: 'h2', body: { question: 'why?' } }
}

for (const [kind, request] of Object.entries(kinds)) {
  t.test(`a fault after every byte of a ${kind}: one run, and the client has everything`, async (t) => {
    const runs = new Map<string, number>()
    const { fastify, port } = await startApp(
      t,
      (fastify) => {
        fastify.route<{ Params: { id: string } }>({
          method: ['GET', 'POST'],
          url: '/:id',
          handler: ({ params: { id } }, reply) =>
            reply.sseFromGenerator(
              () => {
                runs.set(id, (runs.get(id) ?? 0) + 1)
                return events
              },
              { streamId: id }
            )
        })
      },
      { http2: request.protocol === 'h2', plugin: { maxActiveStreams: 10_000 } }
    )
    const proxies = await Promise.all(Array.from({ length: WORKERS }, () => TcpProxy.start(t, port)))
    const length = await requestLength(t, proxies[0] as TcpProxy, request)
    t.ok(length > 60, `a request of ${length} bytes`)

    const jobs = FAULTS.flatMap((fault) => Array.from({ length: length + 1 }, (_, after) => ({ fault, after })))
    const wrong: string[] = []
    await shareOut(proxies, jobs, async (proxy, { fault, after }) => {
      const id = `${fault}-${after}`
      const whole = await resumeUntilEnd(t, proxy, `/${id}`, request, [{ direction: 'request', after, fault }])
      if (JSON.stringify(whole.data) !== JSON.stringify(events)) wrong.push(`${id}: got ${whole.data.join()}`)
      if (!whole.hasEnd || whole.gaps.length > 0 || whole.wasMisled) wrong.push(`${id}: ${JSON.stringify(whole)}`)
      if (runs.get(id) !== 1) wrong.push(`${id}: the handler ran ${runs.get(id)} times`)
    })
    t.strictSame(wrong, [])

    await eventually('all clients are gone', () => fastify.sseStreams.stats().clients === 0)
    const { running, started } = fastify.sseStreams.stats()
    t.strictSame({ running, started }, { running: 0, started: jobs.length + 1 })
  })
}

async function requestLength(t: Test, proxy: TcpProxy, request: SseRequest): Promise<number> {
  await resumeUntilEnd(t, proxy, '/measure', request, [])
  return proxy.requestBytes
}

t.test('a request whose cursor is cut never resumes at another place', async (t) => {
  const { port } = await startApp(t, (fastify) => {
    fastify.get('/', (_, reply) => reply.sseFromGenerator(() => events, { streamId: 's' }))
  })
  const proxy = await TcpProxy.start(t, port)
  const first = await resumeUntilEnd(t, proxy, '/', {}, [])
  const lastEventId = first.events.find(({ data }) => data === 'two')?.id
  await resumeUntilEnd(t, proxy, '/', { lastEventId }, [])
  const length = proxy.requestBytes
  for (const fault of FAULTS) {
    for (let after = 0; after <= length; after++) {
      const whole = await resumeUntilEnd(t, proxy, '/', { lastEventId }, [{ direction: 'request', after, fault }])
      if (JSON.stringify(whole.data) !== '["three"]') t.fail(`${fault} after ${after}: ${JSON.stringify(whole)}`)
    }
  }
  t.pass(`${length} bytes, ${FAULTS.length} faults`)
})
