import { writeFileSync } from 'node:fs'
import { Session, type Profiler as Protocol } from 'node:inspector/promises'

/** A `--cpu-prof` of one turn instead of the whole process: warm-up and connecting would drown what is measured. */
export class Profiler {
  readonly #session = new Session()

  async begin(): Promise<void> {
    this.#session.connect()
    await this.#session.post('Profiler.enable')
    await this.#session.post('Profiler.setSamplingInterval', { interval: 200 })
    await this.#session.post('Profiler.start')
  }

  /** Writes the profile and returns its hottest functions. */
  async end(file: string): Promise<string> {
    const { profile } = await this.#session.post('Profiler.stop')
    this.#session.disconnect()
    writeFileSync(file, JSON.stringify(profile))
    return `${hottest(profile)}\n${file}`
  }
}

/** Self time by function, hottest first. */
function hottest({ nodes, samples = [], timeDeltas = [] }: Protocol.Profile): string {
  const places = new Map<number, string>()
  for (const { id, callFrame } of nodes) {
    const file = callFrame.url.split('/').slice(-2).join('/')
    places.set(id, `${callFrame.functionName || '(anonymous)'} ${file}:${callFrame.lineNumber + 1}`)
  }
  const selfTime = new Map<string, number>()
  let total = 0
  samples.forEach((id, index) => {
    const place = places.get(id) ?? '?'
    // The profiler's own start is nobody's work.
    if (place.startsWith('(idle)') || place.startsWith('dispatch :')) return
    const micros = timeDeltas[index] ?? 0
    total += micros
    selfTime.set(place, (selfTime.get(place) ?? 0) + micros)
  })
  return [...selfTime]
    .toSorted((one, other) => other[1] - one[1])
    .slice(0, 40)
    .map(([place, micros]) => `${((100 * micros) / total).toFixed(1).padStart(6)} %  ${place}`)
    .join('\n')
}
