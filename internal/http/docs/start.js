// Shows the contract of the server that this page came from.
'use strict'

// In a document of OpenAPI 3.1 Swagger UI does not show the parameters of a path, and may forget the example of one that
// is a reference. So each operation is given its parameters, whole.
const wholeParameters = (original) => (contract) => {
  const whole = (parameter) =>
    parameter.$ref ? contract.components.parameters[parameter.$ref.replace('#/components/parameters/', '')] : parameter
  for (const path of Object.values(contract.paths ?? {})) {
    const { parameters = [], ...operations } = path
    for (const operation of Object.values(operations)) {
      operation.parameters = [...parameters, ...(operation.parameters ?? [])].map(whole)
    }
    delete path.parameters
  }
  return original(contract)
}

// Swagger UI fills each field in with the parameter's example. An entity tag or a cursor that is but an example would
// make the request fail, so the fields of optional parameters begin empty. The example is shown beside them all the same.
const emptyWhereOptional = (original) => (state, ...args) => {
  const parameter = original(...args) // which has the state already
  return parameter && !parameter.get('required') ? parameter.delete('example') : parameter
}

// When an operation is opened, Swagger UI follows its references. For OpenAPI 3.1 it takes the whole contract apart to do
// that, for a second or two each time. Ours are all within the contract, and none leads back to itself.
const resolveSubtree = async (contract, path) => {
  const at = (names) => names.reduce((value, name) => value?.[name], contract)
  const followed = (value) => {
    if (Array.isArray(value)) return value.map(followed)
    if (value === null || typeof value !== 'object') return value
    const { $ref, ...own } = value
    for (const name in own) own[name] = followed(own[name])
    // A model's name is taken from $$ref.
    return $ref ? { $$ref: $ref, ...followed(at($ref.split('/').slice(1))), ...own } : own
  }
  return { spec: followed(at(path)), errors: [] }
}

window.ui = SwaggerUIBundle({
  // Absolute, because the contract's server, /, is relative to it.
  url: new URL('openapi.yaml', document.baseURI).href,
  dom_id: '#reference',
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [{
    fn: { resolveSubtree },
    statePlugins: {
      spec: {
        wrapActions: { updateJsonSpec: wholeParameters },
        wrapSelectors: { parameterWithMetaByIdentity: emptyWhereOptional },
      },
    },
  }],
  layout: 'BaseLayout',
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null, // another host would be sent the address of this one
})
