/** A bare socket, the events of one turn joined once for all: the limit in Node where several come at once. */
import { createServer, type Socket } from 'node:net'
import type { Material, Running } from '../harness/contestant.ts'
import { drained } from './hub.ts'
import { listen } from './listen.ts'

const HEAD =
  'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n'
const HIGH_WATER_MARK = 16_384

export async function start({ source }: Material): Promise<Running> {
  const clients = new Set<Socket>()
  const server = createServer({ noDelay: true }, (socket) => {
    socket.on('error', () => {})
    socket.on('close', () => clients.delete(socket))
    socket.on('data', () => {
      socket.write(HEAD)
      clients.add(socket)
    })
  })

  let turn = ''

  function flush(): void {
    if (turn === '') return
    const bytes = Buffer.from(`${Buffer.byteLength(turn).toString(16)}\r\n${turn}\r\n`)
    turn = ''
    for (const socket of clients) socket.write(bytes)
  }

  async function broadcast(): Promise<void> {
    let id = 0
    for await (const value of source.feed()) {
      // Runs when the generator waits for something.
      if (turn === '') process.nextTick(flush)
      turn += `id: ${++id}\ndata: ${value}\n\n`
      if (turn.length < HIGH_WATER_MARK) continue
      flush()
      await Promise.all(Array.from(clients, drained))
    }
  }

  void broadcast()
  return { port: await listen(server) }
}
