/** `reply.send(buffer)`: what answering with bytes that are there already costs in Fastify. The 1.00 of the replays. */
import Fastify from 'fastify'
import type { Material, Running } from '../harness/contestant.ts'
import { bodyOf, valueOf } from '../harness/source.ts'
import { listenFastify } from './listen.ts'

export async function start({ history }: Material): Promise<Running> {
  const fastify = Fastify()
  const frames: Buffer[] = []
  const body = bodyOf(history?.bytes ?? 0, false)
  for (let sequence = 0; sequence < (history?.events ?? 0); sequence++) {
    frames.push(Buffer.from(`id: ${sequence + 1}\ndata: ${valueOf(sequence, body, false)}\n\n`))
  }
  const starts: number[] = [0]
  for (const frame of frames) starts.push((starts.at(-1) ?? 0) + frame.length)
  const whole = Buffer.concat(frames)

  fastify.get('/history', (request, reply) => {
    const after = Number(request.headers['last-event-id'] ?? 0)
    reply.header('cache-control', 'no-cache').type('text/event-stream').send(whole.subarray(starts[after]))
  })
  return { port: await listenFastify(fastify) }
}
