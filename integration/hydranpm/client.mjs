// Calls Hydra's admin API with one of its clients, @ory/hydra-client (axios) or
// @ory/hydra-client-fetch (Node's fetch): each line of the input is a call, {"method", "parameters"}, and for each
// there is a line with what the caller gets, {"status", "data", "link"} or, if the client throws, {"error", …} with its name.
import { createInterface } from "node:readline"

const [name, basePath, authorization] = process.argv.slice(1)
const { Configuration, OAuth2Api } = await import(name)
const headers = authorization ? { Authorization: authorization } : {}
const throughFetch = name.endsWith("-fetch")
const api = new OAuth2Api(new Configuration(throughFetch ? { basePath, headers } : { basePath, baseOptions: { headers } }))

// Both clients have the same methods; what they return and throw is their own.
async function call(method, parameters) {
  if (throughFetch) {
    const response = await api[`${method}Raw`](parameters)
    return { status: response.raw.status, link: response.raw.headers.get("link"), data: (await response.value()) ?? null }
  }
  const response = await api[method](parameters)
  return { status: response.status, link: response.headers.link ?? null, data: response.data === "" ? null : response.data }
}

// pages follows the header Link as far as it leads.
async function pages(parameters) {
  const pages = []
  for (let pageToken; ; ) {
    const { data, link } = await call("listOAuth2ConsentSessions", { ...parameters, pageToken })
    pages.push(data)
    const next = link.split(",").find((part) => part.endsWith('; rel="next"'))
    if (!next) {
      return { status: 200, data: pages }
    }
    pageToken = new URL(next.slice(1, next.indexOf(">")), basePath).searchParams.get("page_token")
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { method, parameters } = JSON.parse(line)
  let result
  try {
    result = method === "pages" ? await pages(parameters) : await call(method, parameters)
  } catch (e) {
    // Both have the response in the error: axios with the body parsed, if the type is JSON's.
    if (!e.response) {
      throw e
    }
    result = { error: e.name, status: e.response.status, data: throughFetch ? await e.response.json() : e.response.data }
  }
  console.log(JSON.stringify(result))
}
