import Fastify from 'fastify'
import net from 'node:net'
import plugin from '../src/index.ts'
export { net, Fastify, plugin }
export const sleep = (ms:number)=>new Promise(r=>setTimeout(r,ms))
export async function app(opts:any, setup:(f:any)=>any, fopts:any={}) {
  const f:any = Fastify(fopts as any)
  await f.register(plugin as any, opts)
  await setup(f)
  await f.listen({host:'127.0.0.1',port:0})
  return {f, port:(f.server.address() as any).port}
}
export function raw(port:number, text:string, onData?:(b:Buffer)=>void) {
  const s = net.connect(port,'127.0.0.1')
  const st:any = {s, buf:'', ended:false, closed:false, err:null, bytes:0}
  s.on('data',b=>{st.bytes+=b.length; st.buf+=b.toString('latin1'); onData?.(b)})
  s.on('end',()=>st.ended=true); s.on('close',()=>st.closed=true); s.on('error',e=>st.err=e)
  s.write(text)
  return st
}
export const timeout = (p:Promise<any>, ms:number, what='x')=>Promise.race([p, new Promise((_,r)=>setTimeout(()=>r(new Error('TIMEOUT '+what)),ms).unref?.())])
process.on('uncaughtException', e=>console.log('UNCAUGHT', e))
process.on('unhandledRejection', e=>console.log('UNHANDLED', e))
