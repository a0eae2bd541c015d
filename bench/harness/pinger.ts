/** A worker that asks one route again and again and says how long each answer took, whatever the runner is busy with. */
import { request, Agent } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'

const INTERVAL_MS = 5

/** The runner's end. */
export class Pinger {
  readonly #worker: Worker
  #times: number[] = []

  constructor(port: number) {
    this.#worker = new Worker(new URL(import.meta.url), { workerData: port })
    this.#worker.on('message', (time: number) => this.#times.push(time))
  }

  /** The milliseconds of every answer since the last call. */
  take(): number[] {
    const times = this.#times
    this.#times = []
    return times
  }

  async stop(): Promise<void> {
    await this.#worker.terminate()
  }
}

async function ping(port: number): Promise<never> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  for (;;) {
    const startedAt = performance.now()
    await new Promise<void>((resolve, reject) => {
      const outgoing = request({ host: '127.0.0.1', port, path: '/ping', agent }, (answer) => {
        answer.resume().on('end', resolve)
      })
      outgoing.on('error', reject)
      outgoing.end()
    })
    parentPort?.postMessage(performance.now() - startedAt)
    await sleep(INTERVAL_MS)
  }
}

if (!isMainThread) await ping(workerData as number)
