/**
 * A job started by POST and followed by GET: it runs whether anybody looks or not, and everyone who looks, at any time,
 * sees all of its progress from the beginning.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import streamPlugin, { type SseMessage } from '../../src/index.ts' // in your project: 'fastify-resumable-sse'

export type Job = (signal: AbortSignal) => AsyncIterable<SseMessage>

const countToTen: Job = async function* (signal) {
  for (let step = 1; step <= 10; step++) {
    await sleep(500, undefined, { signal })
    yield { event: 'progress', data: { step, of: 10 } }
  }
}

export async function build({ job = countToTen }: { job?: Job } = {}): Promise<FastifyInstance> {
  const fastify = Fastify()
  // A job has no client for as long as nobody looks: it must not be aborted for that, nor to make room for another.
  await fastify.register(streamPlugin, { orphanTimeout: Infinity, whenFull: 'reject' })

  fastify.post('/jobs', async (_request, reply) => {
    const id = randomUUID()
    await fastify.sseStreams.start(job, { streamId: id })
    return reply.code(202).header('location', `/jobs/${id}`).send({ id })
  })

  // 404 for a job that was never started, or whose events have expired.
  fastify.get<{ Params: { id: string } }>('/jobs/:id', (request, reply) => reply.sseAttach(request.params.id))
  return fastify
}

if (process.argv[1] === import.meta.filename) {
  const fastify = await build()
  const origin = await fastify.listen({ host: '127.0.0.1', port: Number(process.env['PORT'] ?? 3000) })
  console.log(`curl -X POST ${origin}/jobs, and with the id that it answers: curl -N ${origin}/jobs/<id>`)
}
